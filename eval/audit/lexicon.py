"""Closed classes: what can be listed, by the names that people give it.

A class is here only if its members can be listed or told from the characters alone. Nouns, verbs,
plurals, names, places, emotions and the like are not: no list of them is complete, so a text about
them is prose.
"""

import keyword
import re
from functools import cache

_MONTHS = "January February April June July August September October November December"
_SHORT_MONTHS = "May MAY March MARCH Jan Feb Mar Apr Jun Jul Aug Sep Sept Oct Nov Dec"
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
_SHORT_DAYS = "Mon Tue Tues Wed Thu Thur Thurs Fri Sat Sun"
_CARDINALS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety "
    "hundred thousand million billion trillion dozen"
)
_ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth "
    "fourteenth fifteenth sixteenth seventeenth eighteenth nineteenth twentieth thirtieth "
    "hundredth thousandth"
)
_FEMALE = "she her hers herself"
_MALE = "he him his himself"
_SUBJECTS = "i you he she it we they"
_OBJECTS = "me you him her it us them"
_POSSESSIVE = "my your his her its our their mine yours hers ours theirs"
_REFLEXIVE = "myself yourself himself herself itself ourselves yourselves themselves oneself"
_PERSONAL = f"{_SUBJECTS} {_OBJECTS}"
_RELATIVE = "that which who whom whose"
_DEMONSTRATIVE = "this that these those"
_INDEFINITE = (
    "anyone anybody anything someone somebody something everyone everybody everything nobody "
    "nothing one none"
)
_QUESTIONS = "who whom whose what which when where why how"
_ARTICLES = "the a an"
_PREPOSITIONS = (
    "about above across after against along among around as at before behind below beneath beside "
    "besides between beyond by despite down during except for from in inside into like near of "
    "off on onto out outside over past per since through throughout till to toward towards under "
    "underneath until unto up upon via with within without"
)
_COORDINATING = "and or but nor so yet for"
_SUBORDINATING = (
    "after although as because before if once since than that though till unless until when "
    "whenever where whereas wherever whether while"
)
_MODALS = "can could may might must shall should will would ought"
_BE = "am is are was were be been being"
_HAVE = "have has had having"
_DO = "do does did doing"
_DETERMINERS = f"{_ARTICLES} {_DEMONSTRATIVE} my your his her its our their some any no every each"
_COLORS = (
    "red orange yellow green blue purple violet pink brown black white gray grey cyan magenta "
    "turquoise beige"
)

_WORDS = {
    "number words": _CARDINALS,
    "ordinals": _ORDINALS,
    "feminine pronouns": _FEMALE,
    "masculine pronouns": _MALE,
    "gendered pronouns": f"{_FEMALE} {_MALE}",
    "possessive pronouns": _POSSESSIVE,
    "reflexive pronouns": _REFLEXIVE,
    "relative pronouns": _RELATIVE,
    "demonstratives": _DEMONSTRATIVE,
    "subject pronouns": _SUBJECTS,
    "object pronouns": _OBJECTS,
    "personal pronouns": f"{_PERSONAL} {_POSSESSIVE} {_REFLEXIVE}",
    "pronouns": f"{_PERSONAL} {_POSSESSIVE} {_REFLEXIVE} {_RELATIVE} {_DEMONSTRATIVE} "
    f"{_INDEFINITE} what",
    "question words": _QUESTIONS,
    "articles": _ARTICLES,
    "definite articles": "the",
    "indefinite articles": "a an",
    "prepositions": _PREPOSITIONS,
    "coordinating conjunctions": _COORDINATING,
    "subordinating conjunctions": _SUBORDINATING,
    "conjunctions": f"{_COORDINATING} {_SUBORDINATING}",
    "modal verbs": _MODALS,
    "forms of be": _BE,
    "auxiliary verbs": f"{_MODALS} {_BE} {_HAVE} {_DO}",
    "determiners": _DETERMINERS,
    "colors": _COLORS,
    "function words": f"{_ARTICLES} {_PREPOSITIONS} {_COORDINATING} {_SUBORDINATING} {_PERSONAL} "
    f"{_POSSESSIVE} {_RELATIVE} {_DEMONSTRATIVE} {_MODALS} {_BE} {_HAVE} {_DO} {_DETERMINERS} not",
    "Python keywords": " ".join(keyword.kwlist),
}

_MARKS = {
    "commas": ",",
    "periods": ".",
    "colons": ":",
    "semicolons": ";",
    "question marks": "?",
    "exclamation marks": "!",
    "quotation marks": "\"“”«»'‘’",
    "double quotes": '"“”',
    "single quotes": "'‘’",
    "apostrophes": "'’",
    "parentheses": "()",
    "opening parentheses": "(",
    "closing parentheses": ")",
    "square brackets": "[]",
    "curly braces": "{}",
    "angle brackets": "<>",
    "brackets": "()[]{}<>",
    "opening brackets": "([{<",
    "closing brackets": ")]}>",
    "hyphens": "-‐‑",
    "dashes": "-–—‐‑",
    "underscores": "_",
    "slashes": "/",
    "backslashes": "\\",
    "asterisks": "*",
    "hash signs": "#",
    "at signs": "@",
    "equals signs": "=",
    "plus signs": "+",
    "minus signs": "-−",
    "ampersands": "&",
    "vertical bars": "|",
    "tildes": "~",
    "carets": "^",
    "backticks": "`",
    "percent signs": "%",
    "dollar signs": "$",
    "currency symbols": "$€£¥₹¢",
    "bullet points": "•·*-",
}

_NUMBER = r"\d+(?:[.,]\d+)*"
_NEGATIONS = "no not never none nobody nothing neither nor nowhere cannot"
_SENTENCE = r"(?:(?<=[.!?])\s+|\n\s*|\A\s*|(?<=\uE000)\s*)[\"“'‘(]*"


def _any_of(words: str) -> str:
    return "|".join(re.escape(word) for word in sorted(words.split(), key=len, reverse=True))


_PATTERNS = {
    # "may" and "march" are verbs first, "sun" and "mar" words of their own: capitals decide.
    "months": rf"(?<!\w)(?:(?i:{_any_of(_MONTHS)})|{_any_of(_SHORT_MONTHS)})(?!\w)",
    "weekdays": rf"(?<!\w)(?:(?i:{_any_of(_DAYS)})|{_any_of(_SHORT_DAYS)})(?!\w)",
    "negations": rf"(?<!\w)(?i:{_any_of(_NEGATIONS)})(?!\w)|n['’]t(?!\w)",
    "numbers": _NUMBER,
    "digits": r"\d",
    "years": r"(?<!\d)(?:1[0-9]|20)\d\d(?!\d)",
    "decimal numbers": r"\d+\.\d+",
    "percentages": rf"{_NUMBER}\s*%",
    "punctuation": r"(?:[^\w\s\uE000]|_)+",
    "ends of sentences": r"[.!?]+",
    "newlines": r"\n",
    "blank lines": r"\n[ \t]*\n",
    "white space": r"\s{2,}|[\n\t]",
    "tabs": r"\t",
    "spaces": r" ",
    "indentation": r"(?:(?<=\n)|(?<=\uE000)|\A)[ \t]+",
    "capitalised words": r"(?<!\w)[A-Z][\w'’]*",
    "words in capitals": r"(?<![a-zA-Z])[A-Z]{2,}(?![a-z])",
    "capital letters": r"[A-Z]",
    "single letters": r"(?<![^\W_])[A-Za-z](?![^\W_])",
    "URLs": r"(?:https?://|www\.)[^\s\uE000]*",
    "e-mail addresses": r"[\w.+-]+@[\w-]+\.[\w.]+",
    "first tokens of a text": r"(?:\A|(?<=\uE000))[^\uE000]",
    "first words of a line": r"(?:(?<=\n)|(?<=\uE000)|\A)[ \t]*[^\s\uE000]\w*",
    "first words of a sentence": rf"{_SENTENCE}\w+",
    "end-of-text tokens": r"<\|(?:endof|end_of_|begin_of_|startof)text\|>|</?s>|<eos>|<bos>",
}


@cache
def class_pattern(name: str) -> re.Pattern[str]:
    """What a class matches, on the text as it stands.

    Contexts are set apart by U+E000 in that text.
    """
    if name in _PATTERNS:
        return re.compile(_PATTERNS[name])
    if name in _MARKS:
        return re.compile(f"[{re.escape(_MARKS[name])}]+")
    flags = re.NOFLAG if name == "Python keywords" else re.I
    return re.compile(rf"(?<!\w)(?:{_any_of(_WORDS[name])})(?!\w)", flags)


@cache
def function_words() -> frozenset[str]:
    """Words that mean themselves where they stand alone: no text is about them."""
    return frozenset(_WORDS["function words"].split())


CLASSES = (*_WORDS, *_MARKS, *_PATTERNS)
"""Names of all closed classes."""
