"""``hepflow plan``: what each stage will take, from a sample that goes through all of them."""
