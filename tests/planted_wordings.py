"""Two ways to word explanations, as people and language models do.

Both were written before anything was audited. Since then the audit's reader was taught the words of
both, and of the third (`tests.planted_wordings_third`) after it had been tried once.
"""

from collections.abc import Mapping
from dataclasses import dataclass

Templates = tuple[str, ...]


@dataclass(frozen=True)
class Wording:
    """Templates by what they say.

    Attributes
    ----------
    one, many : mapping of str to tuple of str
        Nouns for one fact, and for several, by kind.
    listing : mapping of str to tuple of str
        Nouns whose list reads the same for one and several.
    pair : tuple of str
        A token `b` after `a`.
    phrase : tuple of str
        A run of tokens.
    marks : tuple of str
        Any punctuation.
    only_after, unless, union : tuple of str
        Conditions, exceptions, and one noun beside another.
    frames, negated : tuple of str
        Sentences around a noun; `C` is the noun with a capital.
    open : tuple of str
        Parts of templates that leave room for more than is said, such as "such as".
    errors : tuple of str
        What is stored where the explainer failed or refused.
    """

    one: Mapping[str, Templates]
    many: Mapping[str, Templates]
    listing: Mapping[str, Templates]
    pair: Templates
    phrase: Templates
    marks: Templates
    only_after: Templates
    unless: Templates
    union: Templates
    frames: Templates
    negated: Templates
    open: Templates
    errors: Templates


FIRST = Wording(
    one={
        "token": (
            *("{}", "the token {}", "the {} token", "the string {}", "occurrences of {}"),
            "instances of the token {}",
        ),
        "word": (
            *("the word {}", "occurrences of the word {}", "the word {} in any context"),
            *("uses of the word {}", "{}"),
        ),
        "mark": ("the character {}", "tokens ending in {}", "the symbol {}"),
    },
    many={
        "token": (
            *("{}", "the tokens {}", "any of the tokens {}", "tokens such as {}", "one of {}"),
            *("a few specific tokens: {}", "tokens like {}"),
        ),
        "word": (
            *("the words {}", "words such as {}", "any of the words {}", "specific words: {}"),
            *("words like {}", "{}"),
        ),
        "mark": ("the characters {}", "tokens ending in {}", "the symbols {}"),
    },
    listing={
        "after": (
            *("tokens following {}", "the token after {}", "whatever comes right after {}"),
            *("any token immediately preceded by {}", "the token that follows {}"),
            *("text immediately after {}", "the position right after {}"),
        ),
        "after word": (
            *("the token right after the word {}", "whatever comes right after the word {}"),
            "tokens that directly follow the word {}",
        ),
        "next word": (
            *("the word after {}", "words that follow {}", "any word preceded by the word {}"),
            *("words following {}", "the word that comes after {}"),
        ),
        "suffix": (
            *("words ending in {}", "words that end in {}", "words that end with {}"),
            *("words ending with {}", "words with the suffix {}"),
        ),
        "prefix": (
            *("words starting with {}", "words beginning with {}", "words that begin with {}"),
            *("words that start with {}", "words with the prefix {}"),
        ),
    },
    pair=(
        *("{b} after {a}", "{b} when it follows {a}", "{b} immediately preceded by {a}"),
        *("{b} following {a}", "the token {b} right after {a}"),
        "{b}, when the token before it is {a}",
    ),
    phrase=("the phrase {}", "the sequence {}", "the string {}"),
    marks=("punctuation", "punctuation marks", "any punctuation"),
    only_after=(
        *("{}, only after {}", "{} but only when preceded by {}", "{}, only when it follows {}"),
        "{} immediately after {}",
    ),
    unless=(
        *("{}, except after {}", "{} unless it comes after {}"),
        *("{}, but not when preceded by {}", "{} (but not after {})"),
        *("{} when it does not follow {}", "{}, unless preceded by {}"),
    ),
    union=(
        "{} or {}",
        "either {} or {}",
        "{}, as well as {}",
        "{} and {}",
        "{}; also {}",
        "{}; {}",
    ),
    frames=(
        *("{}", "{}.", "{C}", "{C}.", "fires on {}", "Fires on {}.", "This latent fires on {}."),
        *("This neuron activates on {}.", "The latent activates strongly on {}."),
        *("activates on {}", "Activates for {}.", "Responds to {}", "The feature responds to {}."),
        *("triggers on {}", "Detects {}.", "{C}, regardless of context."),
        *("{C}, across many different contexts.", "Strong activation on {}."),
        *("[EXPLANATION]: {C}.", "Explanation: {C}.", "The neuron is looking for {}."),
        *("Highest activations are on {}.", "This feature detects {}."),
    ),
    negated=(
        *("anything but {}", "Does not fire on {}.", "tokens other than {}"),
        *("every token except {}", "Everything apart from {}", "This latent never fires on {}."),
        *("everything other than {}", "all tokens except {}", "Fires everywhere but on {}."),
        "The neuron ignores {} and fires on everything else.",
    ),
    open=("such as", "like", "Strong activation", "Highest", "strongly"),
    errors=(
        *("", "None", "null", "N/A", "nan", "...", "TODO", "unknown", "[EXPLANATION]:"),
        *("No explanation", "no explanation found", "Explanation could not be parsed."),
        "Could not extract an explanation from the response",
        "Failed to generate explanation",
        "vLLM connection error - server may be down",
        "Error: 429 Too Many Requests",
        "openai.RateLimitError: Error code: 429 - {'error': {'message': 'Rate limit reached'}}",
        "Request timed out.",
        "HTTPConnectionPool(host='localhost', port=8000): Max retries exceeded with url: /v1/chat",
        "CUDA out of memory. Tried to allocate 2.00 GiB",
        "500 Internal Server Error",
        "Traceback (most recent call last):",
        "The response was blocked by the content filter.",
        "I'm sorry, but I can't assist with that request.",
        "I cannot determine a pattern from these examples.",
        "As an AI language model, I am unable to analyze activations.",
        "I don't see any common pattern among the examples.",
        "The provided examples do not contain enough information to determine a pattern.",
        "Sure! Please provide the text examples you would like me to analyze.",
        "Insufficient data to generate an explanation",
    ),
)

SECOND = Wording(
    one={
        "token": (
            *("{}", "{} tokens", "the literal {}", "the text {}", "appearances of {}"),
            "the specific token {}",
        ),
        "word": ("the word {}", "mentions of {}", "the term {}", "every use of {}", "{}"),
        "mark": ("the {} character", "tokens that end with {}", "the {} sign"),
    },
    many={
        "token": (
            *("{}", "tokens {}", "the following tokens: {}", "tokens including {}"),
            *("particular tokens ({})", "the strings {}"),
        ),
        "word": (
            *("the terms {}", "words including {}", "these words: {}", "certain words ({})"),
            *("mentions of {}", "{}"),
        ),
        "mark": ("the {} characters", "tokens that end with {}", "the signs {}"),
    },
    listing={
        "after": (
            *("any token after {}", "the token immediately following {}"),
            *("tokens that come directly after {}", "the next token after {}"),
            *("what comes right after {}", "tokens preceded by {}"),
        ),
        "after word": (
            *("the token immediately following the word {}", "the next token after the word {}"),
            "what comes directly after the word {}",
        ),
        "next word": (
            *("the next word after {}", "any word following {}", "words that come after {}"),
            *("words coming after the word {}", "the word following {}"),
        ),
        "suffix": (
            *(
                "words with the ending {}",
                "any word ending in {}",
                "words whose last letters are {}",
            ),
            *("word endings {}", "words that finish with {}"),
        ),
        "prefix": (
            *("any word that starts with {}", "words whose first letters are {}"),
            *("words which begin with {}", "any word beginning with {}"),
        ),
    },
    pair=(
        *("{b} if it comes after {a}", "{b} directly after {a}", "{b} preceded by {a}"),
        *("{a} followed by {b}", "the token {b} that comes after {a}", "{b} right after {a}"),
    ),
    phrase=("the text {}", "the expression {}", "the token sequence {}"),
    marks=("any punctuation mark", "punctuation characters", "punctuation symbols"),
    only_after=(
        *("{}, but only after {}", "{} only if preceded by {}", "{} when preceded by {}"),
        "{} directly following {}",
    ),
    unless=(
        *("{}, except when it follows {}", "{}, excluding those after {}", "{} but not after {}"),
        *("{} (unless it follows {})", "{} not preceded by {}"),
    ),
    union=("{} or {}", "{} and also {}", "both {} and {}", "{}, and {}", "{}. Also {}"),
    frames=(
        *("{}", "{}.", "{C}", "{C}.", "Activates on {}", "The latent fires for {}."),
        *("This feature fires on {}.", "This neuron responds to {}.", "It fires on {}"),
        *("The feature activates when it sees {}.", "Neuron fires at {}", "Recognizes {}."),
        *("The presence of {}.", "The activating tokens are {}.", "Activation on {}"),
        *("{C} in various contexts.", "{C}, wherever it appears.", "**Explanation:** {C}"),
        *("Latent active on {}", "The main trigger is {}.", "Fires whenever there is {}."),
    ),
    negated=(
        *("everything but {}", "never active on {}", "It does not respond to {}."),
        *("any token except {}", "all tokens other than {}", "anything except for {}"),
        *("Fires on everything but {}.", "tokens that are not {}", "Silent on {}."),
        "This feature is inactive on {} and active elsewhere.",
    ),
    open=("including", "particular", "certain", "main trigger"),
    errors=(
        *("  ", "none", "NULL", "n/a", "NaN", "-", "???", "tbd", "Explanation:"),
        *("Explanation not available", "No description available.", "(empty)"),
        "Error generating explanation",
        "Parsing failed: expected a list",
        "ConnectionError: Connection refused",
        "HTTP 503 Service Unavailable",
        "openai.BadRequestError: This model's maximum context length is 4096 tokens.",
        "TimeoutError",
        "json.decoder.JSONDecodeError: Expecting value: line 1 column 1 (char 0)",
        "RuntimeError: CUDA error: device-side assert triggered",
        "502 Bad Gateway",
        '{"error": "model overloaded"}',
        "I apologize, but I am not able to help with that.",
        "I'm unable to identify a clear pattern in the given text.",
        "There is not enough information to explain this neuron.",
        "No clear pattern can be identified.",
        "Please provide more examples.",
        "It is unclear what activates this neuron.",
        "Unable to determine.",
        "Rate limit exceeded, please retry later",
    ),
)

WORDINGS = {"first": FIRST, "second": SECOND}
