"""Pure functions of the physics: kinematics, isolation, selection, features."""
