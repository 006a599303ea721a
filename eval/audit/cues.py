"""Words of explanations that relate, limit or list, and words that say nothing checkable or not."""

from functools import cache

_CUES = {
    "after": "the first token after; first token after; the first word after; "
    "first word after; preceding word; previous word; the token before; "
    "with the preceding token; whose predecessor is; succeeding; succeeds; that succeed; "
    "that succeeds; just after; comes just after; preceding token; previous token; after; "
    "following; follows; follow; that follow; that follows; preceded by; which follow; "
    "which follows; anything after; coming after; that come after; immediately after; "
    "right after; directly after; directly following; immediately following; "
    "the token before it is; token before it is; the word before it is; word before it is; "
    "the token before is; the previous token is; previous token is; previous word is; "
    "the previous word is; preceding token is; preceding word is; the preceding token is; "
    "the preceding word is",
    "before": "before; followed by; preceding; precedes; that precede; that precedes; "
    "prior to; precede; immediately before; right before; directly before; "
    "immediately preceding; immediately followed by; directly preceding",
    "not": "no activation on; no activation for; no activations on; stays off on; "
    "stays silent on; remains silent on; besides; aside from; save for; save on; save where; "
    "barring; outside of; skips; skip; avoids; avoid; except; except for; excluding; "
    "excludes; but not; not; never; unless; other than; apart from; rather than; nor; "
    "does not; do not; doesn't; don't; is not; are not; isn't; aren't; "
    "with the exception of; as opposed to; instead of; without; never on; not on; ignores; "
    "ignore; ignoring; silent on; inactive on",
    "nothing": "set off by; sets off; in any text; based on the examples; "
    "among the examples; in the examples; across examples; all the rest; the rest; "
    "all others; in any kind of document; whatever the topic; in any document; not only; "
    "but also; not just; not necessarily; no token but; no tokens but; no word but; "
    "nothing but; everything else; anything else; anywhere else; everywhere else; elsewhere; "
    "all other tokens; every other token; regardless of context; regardless of the context; "
    "in any context; in all contexts; in every context; in various contexts; "
    "in different contexts; in many contexts; across contexts; across many contexts; "
    "across different contexts; across various contexts; across many different contexts; "
    "in many different contexts; whatever the context",
    "not of any": "everywhere save; everywhere save on; everything besides; "
    "anything besides; anything but; everything but; any token but; any tokens but; "
    "anything except; everything except; all tokens but; every token but; any word but; "
    "anything other than; all words but; any word but not; any token but not; "
    "everywhere but; everywhere but on; everywhere except; everywhere except on; "
    "everything apart from; anything apart from",
    "any": "any token; any tokens; all tokens; every token; anything; everything; any word; "
    "all words; every word; every position; all positions; any position; everywhere; "
    "each token; all text; any text",
    "examples": "such as; like; e.g; eg; for example; for instance; including; includes; "
    "include; especially; particularly; in particular; notably; among others; for example in",
    "list": "namely; i.e; ie; that is to say; specifically; viz",
    "prefix": "whose initial letters are; that open with; starting with; beginning with; "
    "begins with; begin with; start with; starts with; that begin with; that start with; "
    "which begin with; which start with; whose first letters are; opening with; prefix; "
    "prefixes; prefixed with; prefixed by; that starts with; that begins with; starting in; "
    "beginning in; with the prefix",
    "suffix": "terminating in; that terminate in; terminated by; terminated with; "
    "whose final letters are; ending in; ending with; ends in; ends with; end in; end with; "
    "that end in; that end with; with the ending; with the endings; word endings; "
    "word ending; whose last letters are; that finish with; finish with; finishing with; "
    "finishes with; suffix; suffixes; suffixed with; suffixed by; that ends in; "
    "that ends with; that so far end in; with the suffix",
    "inside": "containing; contains; contain; that contain; that contains",
    "outputs": "promotes; promote; promoting; predicts; predict; predicting; prediction of; "
    "predictions of; boosts; boosting; boost; upweights; upweighting; suppresses; suppress; "
    "suppressing; inhibits; upvotes; increases the probability of; "
    "increases the likelihood of; increases the logit of; raises the probability of; "
    "outputs; outputting; anticipates; anticipating",
    "context": "about; context; contexts; related to; relating to; discussing; "
    "discussions of; discussion of; discussions; topic; topics; mentioning; themes; "
    "passages; describing; documents; articles about; text about; texts; content; "
    "concerning; associated with",
    "word": "word; words; token; tokens; term; terms; verb; noun; name; adjective; adverb; "
    "letter; symbol; character; characters; symbols; letters; phrase; phrases; string; "
    "strings; piece; pieces; subword; subwords; mark; keyword; particle; literal; form",
}

_SAYS_NOTHING = (
    "a an the this that these those it its fires fire firing fired activates activate active "
    "activated activating activation activations responds respond detects detect detecting "
    "latent neuron feature unit node on at in for to of when whenever where wherever is are "
    "be was were by with as and or & / both either also only just exactly mostly mainly "
    "primarily usually often sometimes typically generally strongly weakly highly most very "
    "almost always consistently occurrence occurrences instance instances mention mentions "
    "appearance appearances appear appears appearing occur occurs occurring use uses used "
    "usage presence present found seen every each any all some text texts sentence sentences "
    "within position positions place places single individual specific particular certain "
    "common exact case case-insensitive lowercase uppercase capitalized capitalised letter "
    "letters one ones english explanation pattern patterns literally itself themselves them "
    "they tokenized tokens word words which who so far ever more immediately right directly "
    "regardless simple simply then there come comes coming represents variant variants "
    "variation variations form forms whatever what next if but spelled spelt reads whole "
    "standalone among small handful limited group groups list lists whichever carrying picks "
    "out factor makes thing does find finds off plus along additionally else addition own "
    "called combination provided has have signals signal tracks track up spikes spike lights "
    "keys keyed selects selective selectively sensitive tuned prefers preferentially "
    "dedicated specialized specializes specialised specialises captures capture encodes "
    "encode identifies identify identifying flags flag indicates marks elicited elicits "
    "excites excited driven cause caused causes react reacts reacting recognizes recognize "
    "recognises recognise sees see seeing response responses main reliably solely purely "
    "chiefly largely predominantly strictly precisely invariably nearly sequence sequences "
    "item items element elements listed set strong strongest high higher highest peak maximal "
    "maximally trigger triggers triggered well looking looks few several many different "
    "various multiple across"
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
