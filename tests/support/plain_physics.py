"""The physics of hepflow in plain Python: dicts, loops, `math` and 64-bit floats, event by event.

Written from the definitions alone, independently of the compiled version, to compare with it; so it
has its own numbers for the cuts. An event is a dict of collections, each a list of dicts of fields.
"""

import math

CAPS = {"track": 450, "photon": 150, "neutral": 200}


def process(event, definitions):
    """Return ``(hlf, particles, None)`` for an event that passes, else ``(None, None, reason)``."""
    corrected = definitions == "corrected"
    candidates = select_candidates(event, corrected)
    if not corrected and not all(any(c["kind"] == kind for c in candidates) for kind in CAPS):
        return None, None, "no track, photon or neutral hadron"
    lepton, reason = choose_lepton(event, candidates, corrected)
    if lepton is None:
        return None, None, reason
    others = [
        row(c, candidate_isolation(c, candidates, corrected))
        for c in rank(candidates, lepton, corrected)
    ]
    return high_level(event, lepton, corrected), [row(lepton, lepton["iso"]), *others], None


def select_candidates(event, corrected):
    out = []
    for t in event["EFlowTrack"]:
        if t["PT"] > 0.5:
            charge = t["Charge"] if corrected else (t["PID"] > 0) - (t["PID"] < 0)
            out.append(thing("track", t["PT"], t, vertex=(t["X"], t["Y"], t["Z"]), charge=charge))
    for kind, name in (("photon", "EFlowPhoton"), ("neutral", "EFlowNeutralHadron")):
        out += [thing(kind, c["ET"], c) for c in event[name] if c["ET"] > 1.0]
    return out


def thing(kind, pt, source, vertex=(0.0, 0.0, 0.0), charge=0):
    return {
        "kind": kind,
        "pt": float(pt),
        "eta": float(source["Eta"]),
        "phi": float(source["Phi"]),
        "vertex": vertex,
        "charge": charge,
    }


def wrapped(delta):
    return (delta + math.pi) % (2 * math.pi) - math.pi


def squared_distance(a, b, wrap):
    d_eta = a["eta"] - b["eta"]
    d_phi = a["phi"] - b["phi"]
    if wrap:
        d_phi = wrapped(d_phi)
    return d_phi * d_phi + d_eta * d_eta


def same_place(a, b):
    return math.sqrt(squared_distance(a, b, wrap=True)) <= 0.0001


def cone(center, candidates, kind, corrected, leave_out):
    total = 0.0
    for other in candidates:
        if (
            other["kind"] == kind
            and squared_distance(center, other, wrap=corrected) < 0.3 * 0.3
            and not leave_out(other)
        ):
            total += other["pt"]
    return total / center["pt"]


def candidate_isolation(candidate, candidates, corrected):
    leave_out = (lambda other: other is candidate) if corrected else (lambda other: False)
    charged, gamma, neutral = (
        cone(candidate, candidates, kind, corrected, leave_out)
        for kind in ("track", "photon", "neutral")
    )
    return (charged if corrected else charged - 1.0, gamma, neutral)


def lepton_isolation(lepton, candidates, corrected):
    if corrected:
        charged = cone(lepton, candidates, "track", True, lambda other: same_place(lepton, other))
    else:
        charged = cone(lepton, candidates, "track", False, lambda other: False) - 1.0
    gamma, neutral = (
        cone(lepton, candidates, kind, corrected, lambda other: False)
        for kind in ("photon", "neutral")
    )
    return (charged, gamma, neutral)


def choose_lepton(event, candidates, corrected):
    best = {}
    above = False
    for kind, name in (("ele", "Electron"), ("mu", "MuonTight")):
        for source in event[name]:
            if source["PT"] <= 23.0:
                continue
            above = True
            lepton = thing(kind, source["PT"], source, charge=source["Charge"])
            lepton["iso"] = lepton_isolation(lepton, candidates, corrected)
            if not sum(lepton["iso"]) < 0.45:
                continue
            if kind not in best or (corrected and lepton["pt"] > best[kind]["pt"]):
                best[kind] = lepton
    if not best:
        return None, "no isolated lepton" if above else "no lepton above 23 GeV"
    if len(best) == 1:
        return next(iter(best.values())), None
    ele, mu = best["ele"], best["mu"]
    if corrected:
        return (mu if mu["pt"] > ele["pt"] else ele), None
    return (ele if ele["eta"] > mu["eta"] else mu), None


def rank(candidates, lepton, corrected):
    """Return the listed candidates by decreasing pT (sorted() is stable)."""
    others = [c for c in candidates if not (c["kind"] == "track" and same_place(lepton, c))]
    order = sorted(others, key=lambda c: -c["pt"]) if corrected else others
    kept = []
    room = dict(CAPS)
    for candidate in order:
        if room[candidate["kind"]] > 0:
            room[candidate["kind"]] -= 1
            kept.append(candidate)
    return sorted(kept, key=lambda c: -c["pt"])


def row(p, iso):
    px, py, pz = (
        p["pt"] * math.cos(p["phi"]),
        p["pt"] * math.sin(p["phi"]),
        p["pt"] * math.sinh(p["eta"]),
    )
    energy = math.sqrt(px * px + py * py + pz * pz)
    kinds = [float(p["kind"] == kind) for kind in ("track", "neutral", "photon", "ele", "mu")]
    return [
        energy,
        px,
        py,
        pz,
        p["pt"],
        p["eta"],
        p["phi"],
        *p["vertex"],
        *iso,
        *kinds,
        float(p["charge"]),
    ]


def high_level(event, lepton, corrected):
    jets = [j for j in event["Jet"] if j["PT"] > 30.0 and abs(j["Eta"]) < 2.6]
    met, phi_met = (
        (event["MissingET"][0]["MET"], event["MissingET"][0]["Phi"])
        if event["MissingET"]
        else (0.0, 0.0)
    )
    mt_squared = 2.0 * lepton["pt"] * met * (1.0 - math.cos(lepton["phi"] - phi_met))
    return [
        sum(j["PT"] for j in jets),
        met,
        phi_met,
        math.sqrt(mt_squared) if corrected else mt_squared,
        float(len(jets)),
        float(sum(1 for j in jets if j["BTag"] > 0)),
        lepton["pt"],
        lepton["eta"],
        lepton["phi"],
        *lepton["iso"],
        float(lepton["charge"]),
        float(lepton["kind"] == "ele"),
    ]
