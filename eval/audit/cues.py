"""Words of explanations that relate, limit or list, and words that say nothing checkable or not."""

from functools import cache

_CUES = {
    "after": "after; following; follows; follow; that follow; that follows; preceded by; "
    "which follow; which follows; anything after; coming after; that come after; "
    "immediately after; right after; directly after; directly following; immediately following; "
    "the previous token is; previous token is; previous word is; the previous word is; "
    "preceding token is; preceding word is; the preceding token is; the preceding word is",
    "before": "before; followed by; preceding; precedes; that precede; that precedes; prior to; "
    "precede; immediately before; right before; directly before; immediately preceding; "
    "immediately followed by; directly preceding",
    "not": "except; except for; excluding; excludes; but not; not; never; unless; other than; "
    "apart from; rather than; nor; does not; do not; doesn't; don't; is not; are not; isn't; "
    "aren't; with the exception of; as opposed to; instead of; without; never on; not on",
    "nothing": "not only; but also; not just; not necessarily; no token but; "
    "no tokens but; no word but; nothing but",
    "not of any": "anything but; everything but; any token but; any tokens but; anything except; "
    "everything except; all tokens but; every token but; any word but; anything other than; "
    "all words but; any word but not; any token but not",
    "any": "any token; any tokens; all tokens; every token; anything; everything; any word; "
    "all words; every word; every position; all positions; any position; everywhere; "
    "each token; all text; any text",
    "examples": "such as; like; e.g; eg; for example; for instance; including; includes; include; "
    "especially; particularly; in particular; notably; among others; for example in",
    "list": "namely; i.e; ie; that is to say; specifically; viz",
    "prefix": "starting with; beginning with; begins with; begin with; start with; starts with; "
    "that begin with; that start with; prefix; prefixes; prefixed with; prefixed by; "
    "that starts with; that begins with; starting in; beginning in; with the prefix",
    "suffix": "ending in; ending with; ends in; ends with; end in; end with; that end in; "
    "that end with; suffix; suffixes; suffixed with; suffixed by; that ends in; that ends with; "
    "that so far end in; with the suffix",
    "inside": "containing; contains; contain; that contain; that contains",
    "outputs": "promotes; promote; promoting; predicts; predict; predicting; prediction of; "
    "predictions of; boosts; boosting; boost; upweights; upweighting; suppresses; suppress; "
    "suppressing; inhibits; upvotes; increases the probability of; increases the likelihood of; "
    "increases the logit of; raises the probability of; outputs; outputting; "
    "anticipates; anticipating",
    "context": "about; context; contexts; related to; relating to; discussing; discussions of; "
    "discussion of; discussions; topic; topics; mentioning; themes; passages; describing; "
    "documents; articles about; text about; texts; content; concerning; associated with",
    "word": "word; words; token; tokens; term; terms; verb; noun; name; adjective; adverb; letter; "
    "symbol; character; characters; symbols; letters; phrase; phrases; string; strings; piece; "
    "pieces; subword; subwords; mark; keyword; particle; literal; form",
}

_SAYS_NOTHING = (
    "a an the this that these those it its fires fire firing fired activates activate active "
    "activated activating activation activations responds respond detects detect detecting "
    "latent neuron feature unit node on at in for to of when whenever where wherever is are be "
    "was were by with as and or & / both either also only just exactly mostly mainly primarily "
    "usually often sometimes typically generally strongly weakly highly most very almost "
    "always consistently occurrence occurrences instance instances mention mentions appearance "
    "appearances appear appears appearing occur occurs occurring use uses used usage presence "
    "present found seen every each any all some text texts sentence sentences within "
    "position positions place places single individual specific particular certain common exact "
    "case case-insensitive lowercase uppercase capitalized capitalised letter letters one ones "
    "english explanation pattern patterns literally itself themselves them they "
    "tokenized tokens word words which who so far ever more immediately right directly "
    "regardless simple simply then there come comes coming represents "
    "variant variants variation variations form forms"
)

_NEUTRAL = frozenset(_SAYS_NOTHING.split())

_UNFINISHED = frozenset(("etc", "...", "…", "others", "similar"))


@cache
def cue_words() -> dict[tuple[str, ...], str]:
    """What each phrase announces, by its words in lower case.

    >>> cue_words()["preceded", "by"]
    'after'
    """
    return {
        tuple(phrase.split()): cue
        for cue, phrases in _CUES.items()
        for phrase in phrases.split("; ")
    }


def is_neutral(word: str) -> bool:
    """Whether a word says nothing about where a latent fires that is not read otherwise."""
    return word in _NEUTRAL


def is_unfinished(word: str) -> bool:
    """Whether a word says that a list goes on."""
    return word in _UNFINISHED
