"""What can be told of an explanation from its text alone: failures, and copies."""

import re
from collections import Counter
from collections.abc import Sequence

from labeler.eval.audit.claim import READ, is_cut_off, read_claim
from labeler.explanations import Explanation

MIN_COPIES = 5
"""Latents that must share a text before it counts as copied: two or three may well be alike."""

SHARE_OF_COPIES = 0.01
"""Share of the explained latents that must share it, too: large files repeat by chance."""

ENOUGH_COPIES = 20
"""Copies that are enough whatever their share."""

_QUOTED = re.compile(r"\"[^\"]*\"|`[^`]*`|“[^”]*”|(?<!\w)'[^']*'(?!\w)")
_PREFIX = r"^\W*(?:\[?explanation\]?\s*:?\s*)?"

_FAILURES = {
    "is an error message": (
        _PREFIX + r"(?:explanation|generation|request|scoring|parsing) (?:generation )?"
        r"(?:has )?(?:failed|error|could not)",
        _PREFIX
        + r"(?:an? )?(?:\w+ )?(?:connection|timeout|internal server|api|rate.limit\w*|server"
        r"|parse|parsing|json|http|runtime|value|type|key|cuda) ?error\b(?:\W|$)",
        r"(?-i:\b[A-Z]\w+(?:Error|Exception)\s*(?:\(\)|:\s|\)))",
        _PREFIX + r"(?:failed|unable) to (?:generate|parse|produce|connect|get|fetch)\b",
        r"^\W*\{\W*(?:error|_x_)\W*:",
        r"Traceback \(most recent call last\)",
        r"\b(?:HTTP|status code|error code)[ :/.\d]*\b[45]\d\d\b",
        r"connection (?:error|refused|reset|timed out|aborted)\s*(?:-|:)",
        r"server may be down|server is (?:down|overloaded|unavailable)|service unavailable",
        r"^\W*\w*(?:Error|Exception)\W*$|\b(?:model|server|service) (?:is )?(?:overloaded|busy)\b",
        r"\b[45]\d\d (?:gateway|request|internal|service|bad|too|unauthorized|forbidden|not)\b",
        r"\btimed out\W*$|\b(?:Read|Connect)Timeout\b|\boverloaded\b|something went wrong",
        r"^\W*empty (?:response|output|answer)\b|exceeded your (?:current )?quota",
        r"(?:request|connection|generation) timed out|rate limit (?:exceeded|reached)",
        r"\bout of memory\b|bad gateway|too many requests|quota exceeded|max(?:imum)? retries",
        _PREFIX + r"(?:error|exception|failed)\W*$",
        r"could not (?:be )?(?:parsed?|generated?) (?:an? |the )?(?:explanation|response)?",
        r"\bcould not (?:extract|find|read|obtain|get) (?:an? |the |any )?explanation",
        r"\b(?:blocked|filtered|flagged) by (?:the |a )?(?:content|safety) ?(?:filter|policy)",
    ),
    "is a refusal": (
        r"\bi can(?:no|')t (?:say|tell|determine|identify|see|find)\b|\bi won't be able\b",
        r"\b(?:violat\w+|against) (?:\w+ )?(?:usage|content|safety) polic\w+",
        r"\bnot possible to (?:tell|say|determine|identify)\b",
        r"\bno examples (?:were|are) (?:given|provided)",
        r"\b(?:could|can) you (?:please )?(?:share|provide|send)\b",
        _PREFIX + r"(?:i'?m|i am) (?:sorry|unable|not able|afraid)|^\W*i apologi[sz]e\b",
        _PREFIX + r"(?:it is|it's) (?:unclear|not clear|impossible)\b|^\W*unable to \w+",
        r"\b(?:can(?:no|')t|could not) be (?:identified|determined|inferred)\b",
        _PREFIX + r"(?:sorry|unfortunately)\b.{0,40}\b(?:can(?:no|')t|unable|not)\b",
        _PREFIX + r"i (?:can(?:no|')t|do not|don't|am unable|cannot|could not|couldn't) ",
        r"\bas an? (?:ai|artificial intelligence|language model|large language model)\b",
        r"please provide (?:more|the|some|me)\b",
        r"\b(?:not|n't) (?:contain |have |provide |give )?enough (?:information|data|context)",
        r"\binsufficient (?:information|data|context|examples)\b",
    ),
    "says nothing": (
        r"^\W*(?:\[?explanation\]?\s*:\s*)?(?:no explanation\b.{0,20}|unknown|n/?a|none|null|"
        r"nil|nan|undefined|"
        r"todo|tbd|fixme|unclear|not sure|(?:\w+ )?(?:not |un)available|"
        r"(?:no )?(?:description|explanation) available|"
        r"no (?:clear )?(?:pattern|description|answer|label)\b.{0,20}|empty|"
        r"explanation|description|\[?explanation\]?\s*:|no output|nothing)\W*$",
        r"^[\W_]*$",
    ),
    "repeats its prompt": (
        r"you are (?:a|an) (?:meticulous|helpful|expert|careful) ",
        r"^\W*(?:example|neuron|activations?) \d+\s*:",
        r"(?:your (?:task|job) is to|you will be given) ",
        r"<\|(?:im_start|im_end|start_header_id|assistant|user|system)\|?>|\[/?INST\]",
        r"<start>|\{(?:explanation|tokens?|examples?|activations?)\}",
    ),
    "is boilerplate": (
        r"^\W*(?:this|the) (?:latent|neuron|feature|unit) (?:activates|fires|responds) "
        r"(?:on|to|for|in) (?:specific|certain|various|particular|different|many|some) "
        r"(?:tokens?|words?|texts?|contexts?|patterns?|inputs?)\W*$",
        r"^\W*(?:specific|certain|various|miscellaneous|random|different|diverse|common) "
        r"(?:tokens?|words?|texts?|contexts?|patterns?|topics|content)\W*$",
        r"^\W*(?:the )?(?:text|tokens?|words?|neuron|latent|feature)\W*$",
    ),
}

_COMPILED = {
    what: tuple(re.compile(pattern, re.I) for pattern in patterns)
    for what, patterns in _FAILURES.items()
}


def failure(text: str) -> str:
    """Why a text is no explanation; "" if it may be one.

    What stands in quotes is left out: a text may well be about error messages.

    >>> failure("vLLM connection error - server may be down"), failure("")
    ('is an error message', 'is empty')
    >>> failure('words of tracebacks, such as "connection error"')
    ''
    """
    text = text[:READ]
    if not text.strip():
        return "is empty"
    plain = _QUOTED.sub("_x_", text).replace("’", "'")
    for what, patterns in _COMPILED.items():
        if any(pattern.search(plain) for pattern in patterns):
            return what
    if is_cut_off(text) and not read_claim(text):
        return "stops in the middle"
    return ""


def normalised(text: str) -> str:
    """Text as it is compared: lower case, single spaces, no marks at its ends."""
    return " ".join(text.lower().split()).strip(" .!;:,")


def copies(explanations: Sequence[Explanation]) -> list[int]:
    """How many latents have the same text as each explanation, its own included."""
    known = {(normalised(one.text), one.hookpoint, one.latent) for one in explanations}
    count = Counter(text for text, _, _ in known)
    return [count[normalised(one.text)] for one in explanations]


def is_copied(n: int, n_latents: int) -> bool:
    """Whether so many copies, among so many explained latents, are too many."""
    return n >= max(MIN_COPIES, min(ENOUGH_COPIES, SHARE_OF_COPIES * n_latents))
