"""What people call the closed classes."""

import re
from functools import cache

_NAMES = {
    "months": "months; month names; names of months; months of the year; names of the months",
    "weekdays": "weekdays; days of the week; day names; names of days; weekday names",
    "number words": "number words; spelled-out numbers; spelled out numbers; numbers in words",
    "ordinals": "ordinals; ordinal numbers; ordinal words",
    "feminine pronouns": "feminine pronouns; female pronouns",
    "masculine pronouns": "masculine pronouns; male pronouns",
    "gendered pronouns": "gendered pronouns; third person singular gendered pronouns",
    "possessive pronouns": "possessive pronouns; possessives; possessive determiners",
    "reflexive pronouns": "reflexive pronouns",
    "relative pronouns": "relative pronouns",
    "demonstratives": "demonstratives; demonstrative pronouns; demonstrative determiners",
    "subject pronouns": "subject pronouns",
    "object pronouns": "object pronouns",
    "personal pronouns": "personal pronouns",
    "pronouns": "pronouns",
    "question words": "question words; interrogatives; interrogative words; wh-words; wh words; "
    "interrogative pronouns",
    "articles": "articles; definite and indefinite articles",
    "definite articles": "definite articles",
    "indefinite articles": "indefinite articles",
    "prepositions": "prepositions",
    "coordinating conjunctions": "coordinating conjunctions",
    "subordinating conjunctions": "subordinating conjunctions",
    "conjunctions": "conjunctions",
    "modal verbs": "modal verbs; modals; modal auxiliaries; modal auxiliary verbs",
    "forms of be": "forms of be; forms of to be; the verb to be; forms of the verb to be; "
    "forms of the verb be",
    "auxiliary verbs": "auxiliary verbs; auxiliaries; helping verbs",
    "determiners": "determiners",
    "negations": "negations; negation words; negative words",
    "colors": "colors; colours; color words; colour words; names of colors; names of colours; "
    "color names; colour names",
    "function words": "function words; stop words; stopwords",
    "Python keywords": "python keywords",
    "commas": "commas",
    "periods": "periods; full stops; dots; period marks",
    "colons": "colons",
    "semicolons": "semicolons; semi-colons",
    "question marks": "question marks",
    "exclamation marks": "exclamation marks; exclamation points",
    "quotation marks": "quotation marks; quote marks; inverted commas; quotation characters",
    "double quotes": "double quotes; double quotation marks",
    "single quotes": "single quotes; single quotation marks",
    "apostrophes": "apostrophes",
    "parentheses": "parentheses; parens; round brackets",
    "opening parentheses": "opening parentheses; open parentheses; left parentheses",
    "closing parentheses": "closing parentheses; close parentheses; right parentheses",
    "square brackets": "square brackets",
    "curly braces": "curly braces; curly brackets; braces",
    "angle brackets": "angle brackets",
    "brackets": "brackets",
    "opening brackets": "opening brackets; open brackets; left brackets",
    "closing brackets": "closing brackets; close brackets; right brackets",
    "hyphens": "hyphens",
    "dashes": "dashes; em dashes; en dashes",
    "underscores": "underscores",
    "slashes": "slashes; forward slashes",
    "backslashes": "backslashes",
    "asterisks": "asterisks",
    "hash signs": "hash signs; hashes; hash symbols; pound signs; hashtags",
    "at signs": "at signs; at symbols",
    "equals signs": "equals signs; equal signs",
    "plus signs": "plus signs",
    "minus signs": "minus signs",
    "ampersands": "ampersands",
    "vertical bars": "vertical bars; pipes; pipe characters",
    "tildes": "tildes",
    "carets": "carets",
    "backticks": "backticks; backquotes",
    "percent signs": "percent signs; percent symbols; per cent signs",
    "dollar signs": "dollar signs",
    "currency symbols": "currency symbols; currency signs",
    "bullet points": "bullet points; bullets",
    "numbers": "numbers; numerals; integers; numeric tokens; numeric values; number tokens",
    "digits": "digits; digit tokens; numeric digits",
    "years": "years; year numbers; calendar years; four-digit years; 4-digit years",
    "decimal numbers": "decimal numbers; decimals",
    "percentages": "percentages",
    "punctuation": "punctuation; punctuation marks; punctuation characters; punctuation tokens; "
    "punctuation symbols",
    "ends of sentences": "ends of sentences; end of sentences; sentence endings; sentence ends; "
    "end of sentence; end of a sentence; end of the sentence; sentence-final punctuation; "
    "sentence-ending punctuation",
    "newlines": "newlines; new lines; line breaks; linebreaks; line feeds; newline characters; "
    "newline tokens; end of a line; end of line; ends of lines; line endings; line ends",
    "blank lines": "blank lines; empty lines; double newlines; paragraph breaks",
    "white space": "white space; whitespace; whitespaces; whitespace characters; whitespace tokens",
    "tabs": "tabs; tab characters",
    "spaces": "spaces; space characters",
    "indentation": "indentation; indentations; indents",
    "capitalised words": "capitalised words; capitalized words; capitalised tokens; "
    "capitalized tokens; words beginning with a capital letter; words starting with a capital "
    "letter; words with initial capitals",
    "words in capitals": "words in capitals; acronyms; all caps; all-caps words; all caps words; "
    "words in all caps; uppercase words; upper-case words; all-caps text; fully capitalized words",
    "capital letters": "capital letters; uppercase letters; upper-case letters",
    "single letters": "single letters; individual letters; lone letters; one-letter words",
    "URLs": "urls; web addresses; links; hyperlinks; website addresses",
    "e-mail addresses": "e-mail addresses; email addresses; emails",
    "first tokens of a text": "first tokens of a text; first tokens; beginning of text; "
    "beginning of the text; start of text; start of the text; first token of a context; "
    "first token of the text; first token in the text; first token of the context; "
    "beginning of a text; beginning of the context; beginning of a context; "
    "first token of a document; beginning of a document; beginning of documents; "
    "start of a document; start of a text; first position",
    "first words of a line": "first words of a line; beginning of a line; beginning of lines; "
    "start of a line; beginnings of lines; line beginnings; line starts; first word of a line; "
    "start of lines; first token of a line",
    "first words of a sentence": "first words of a sentence; beginning of a sentence; "
    "beginning of sentences; start of a sentence; sentence beginnings; sentence starts; "
    "first word of a sentence; start of sentences; beginnings of sentences; "
    "sentence-initial words; first token of a sentence; beginning of the sentence",
    "end-of-text tokens": "end-of-text tokens; end of text tokens; end-of-document tokens; "
    "bos tokens; eos tokens; beginning of text tokens; endoftext tokens",
}

_PLURAL_END = re.compile(r"(?:(?<=ss)es|(?<=sh)es|(?<=ch)es|(?<!s)s)$")


def _singular(name: str) -> str:
    if name.endswith("parentheses"):
        return name[:-2] + "is"
    if name.endswith("auxiliaries"):
        return name[:-3] + "y"
    return _PLURAL_END.sub("", name)


@cache
def class_names() -> dict[tuple[str, ...], str]:
    """Class of every name that people give one, by its words in lower case; singulars too.

    >>> class_names()["full", "stop"], class_names()["months",]
    ('periods', 'months')
    """
    plural = {
        tuple(name.split()): kind for kind, names in _NAMES.items() for name in names.split("; ")
    }
    single = {tuple(_singular(" ".join(name)).split()): kind for name, kind in plural.items()}
    return single | plural
