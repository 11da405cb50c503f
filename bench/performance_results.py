"""What compare_peers.py measures, keeps and requires: contestants, samples by round, ratios of rounds."""

import dataclasses
import json
import pathlib
import statistics

OURS, LLAMA, IK = "Quantloom", "llama.cpp", "ik_llama.cpp"


@dataclasses.dataclass(frozen=True)
class Contestant:
    """A model on one side. `kind` is a recipe of ours, or a peer's type."""

    side: str
    kind: str
    shape: str = "llama-3.2-1b"
    vocabulary: int | None = None  # instead of the shape's
    batches: tuple = (1, 8)
    prompt: int = 512  # tokens of the timed prompt; 0: none
    repacked: bool = False  # ik_llama.cpp's run-time repacking

    @property
    def name(self):
        return f"{self.side} {self.kind}" + (", repacked" if self.repacked else "")

    @property
    def file(self):
        """Name of its file or directory."""
        kind = self.kind.replace(":", "-").replace(",", "-").replace("=", "")
        vocabulary = f"-{self.vocabulary}" if self.vocabulary else ""
        side = {OURS: "quantloom", LLAMA: "llama", IK: "ik"}[self.side]
        return f"{self.shape}{vocabulary}-{side}-{kind}" + ("" if self.side == OURS else ".gguf")


@dataclasses.dataclass(frozen=True)
class Requirement:
    """A ratio that must hold: `metric` of `ours` over the best of `peers`, or alone where there are none."""

    part: str
    title: str
    metric: str
    ours: str
    peers: tuple
    floor: float
    aim: float | None
    over: str | None = None  # the metric to divide by, where it is another of ours


def _contestants(side, kinds, **settings):
    return [Contestant(side, kind, **settings) for kind in kinds]


def _ik(kinds, **settings):
    """Both forms: repacking helps decoding, and not always prompts."""
    return [c for kind in kinds for c in _contestants(IK, (kind,), **settings)
            + _contestants(IK, (kind,), repacked=True, **settings)]


ICQUANT = ("icquant:bits=2", "icquant:bits=3", "icquant:bits=4")
TRELLIS = ("qtip:bits=2,code=mul1", "qtip:bits=3,code=mul1", "qtip:bits=4,code=mul1")
OTHER_CODES = ("qtip:bits=2,code=1mad", "qtip:bits=2,code=3inst", "qtip:bits=2,code=hyb", "quip:bits=2")
CODES = dict(vocabulary=1024, batches=(1,), prompt=0)  # so that the head weighs nothing

PARTS = {
    "demonstration": _contestants(OURS, ICQUANT[::2], shape="smollm2-135m")
    + _contestants(LLAMA, ("Q4_0", "Q8_0"), shape="smollm2-135m")
    + _ik(("Q4_0", "Q8_0"), shape="smollm2-135m"),
    "1b": _contestants(OURS, ICQUANT) + _contestants(LLAMA, ("Q2_K", "Q3_K", "Q4_0", "Q4_K"))
    + _ik(("Q2_K", "Q3_K", "Q4_0", "Q4_K")),
    "codes": _contestants(OURS, TRELLIS + OTHER_CODES, **CODES) + _contestants(IK, ("IQ2_KT", "IQ3_KT", "IQ4_KT"), **CODES)
    + _contestants(LLAMA, ("IQ2_XS", "IQ3_XXS"), **CODES),
}


def _decode(part, ours, kind, floor, aim, sides=(LLAMA, IK)):
    peers = tuple(c.name for c in PARTS[part] if c.side in sides and c.kind == kind)
    return Requirement(part, f"decode, batch 1: ICQuant {ours[-1]} bits against {kind}", "decode 1", f"{OURS} {ours}", peers,
                       floor, aim)


def _prefill(part, ours):
    peers = tuple(c.name for c in PARTS[part] if c.side != OURS)
    return Requirement(part, f"prompt of 512: ICQuant {ours[-1]} bits against the peers' best type", "prompt",
                       f"{OURS} {ours}", peers, 0.9, 1.1)


def _code(ours, peer, floor, aim):
    return Requirement("codes", f"linear weights/s: {ours} against {peer}", "decode 1", f"{OURS} {ours}", (peer,), floor, aim)


REQUIREMENTS = [
    _decode("demonstration", ICQUANT[0], "Q4_0", 1.3, 1.75, (LLAMA,)),
    _decode("demonstration", ICQUANT[2], "Q4_0", 1.1, 1.4, (LLAMA,)),
    _decode("1b", ICQUANT[0], "Q2_K", 1.15, 1.4),
    _decode("1b", ICQUANT[1], "Q3_K", 1.15, 1.4),
    _decode("1b", ICQUANT[2], "Q4_0", 1.0, 1.2),
    _decode("1b", ICQUANT[2], "Q4_K", 1.0, 1.2),
    _code(TRELLIS[0], f"{IK} IQ2_KT", 1.2, 1.8),
    _code(TRELLIS[1], f"{IK} IQ3_KT", 1.2, 1.8),
    *[_code(code, f"{LLAMA} IQ2_XS", 0.8, None) for code in OTHER_CODES],
    Requirement("1b", "share of the measured read bandwidth: ICQuant 2 bits", "bandwidth share", f"{OURS} {ICQUANT[0]}", (),
                0.75, 0.9),
    *[_prefill(part, recipe) for part, recipes in (("demonstration", ICQUANT[::2]), ("1b", ICQUANT)) for recipe in recipes],
    Requirement("1b", "decode, batch 8 against batch 1: ICQuant 2 bits", "decode 8", f"{OURS} {ICQUANT[0]}", (), 3.0, 5.0,
                over="decode 1"),
]


def samples(rounds, contestant, metric):
    """The metric in each round; None where a round lacks it."""
    return [round_.get(contestant, {}).get(metric) for round_ in rounds]


def median(values):
    """Of those that are there; None when none is."""
    present = [value for value in values if value is not None]
    return statistics.median(present) if present else None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Median and spread of a requirement's ratio over rounds, and the peer that it is to."""

    ratio: float
    low: float
    high: float
    rounds: int
    peer: str | None


def outcome(requirement, rounds):
    """None where nothing was measured for it. The best peer is the one with the highest median."""
    ours = samples(rounds, requirement.ours, requirement.metric)
    peer, others = None, [1.0] * len(rounds)
    if requirement.over:
        others = samples(rounds, requirement.ours, requirement.over)
    elif requirement.peers:
        medians = {name: median(samples(rounds, name, requirement.metric)) for name in requirement.peers}
        measured = {name: value for name, value in medians.items() if value is not None}
        if not measured:
            return None
        peer = max(measured, key=measured.get)
        others = samples(rounds, peer, requirement.metric)
    ratios = [a / b for a, b in zip(ours, others) if a is not None and b]
    if not ratios:
        return None
    return Outcome(statistics.median(ratios), min(ratios), max(ratios), len(ratios), peer)


def load(path):
    """Results as compare_peers.py keeps them; empty where there is no file."""
    path = pathlib.Path(path)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"parts": {}}


def save(results, path):
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
