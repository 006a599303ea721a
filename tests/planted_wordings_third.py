"""A third way to word explanations, written by someone who had not seen how the audit reads them.

Its templates are its own, but for those that English leaves no choice in.
"""

from tests.planted_wordings import Wording

THIRD = Wording(
    one={
        "token": (
            *("{}", "any {} token", "a token spelled {}", "the single token {}", "instances of {}"),
            "the token that reads {}",
        ),
        "word": (
            *("the whole word {}", "instances of the word {}", "the standalone word {}"),
            *("the word spelled {}", "{}"),
        ),
        "mark": ("the punctuation character {}", "tokens terminated by {}", "the {} symbol"),
    },
    many={
        "token": (
            *("{}", "any token among {}", "a small set of tokens: {}", "tokens (e.g. {})"),
            *("tokens, for instance {}", "the token set {}", "a handful of tokens, namely {}"),
        ),
        "word": (
            *("any word among {}", "a limited group of words: {}", "words (for example {})"),
            *("several words, namely {}", "words from this list: {}", "{}"),
        ),
        "mark": ("the punctuation characters {}", "tokens terminated by {}", "the {} symbols"),
    },
    listing={
        "after": (
            *("the first token after {}", "whichever token comes just after {}"),
            *("tokens with {} right before them", "tokens directly succeeding {}"),
            *("the token one position after {}", "the very next token following {}"),
            "a token with {} as its predecessor",
        ),
        "after word": (
            *("the first token after the word {}", "tokens with the word {} right before them"),
            "whichever token comes just after the word {}",
        ),
        "next word": (
            *("the first word after {}", "whichever word comes just after {}"),
            *("words with {} as the preceding word", "words directly succeeding {}"),
            "the very next word following {}",
        ),
        "suffix": (
            *(
                "words terminating in {}",
                "words with {} at the end",
                "words carrying the suffix {}",
            ),
            *("words whose final letters are {}", "words that have {} as their ending"),
        ),
        "prefix": (
            *(
                "words opening with {}",
                "words with {} at the start",
                "words carrying the prefix {}",
            ),
            *("words whose initial letters are {}", "words that have {} as their beginning"),
        ),
    },
    pair=(
        *("{b} with {a} right before it", "{b} where the previous token is {a}"),
        *("{b} whenever it directly succeeds {a}", "{b} (preceding token: {a})"),
        *("{b} as the very next token after {a}", "{b}, provided that {a} comes just before it"),
    ),
    phrase=("the fixed phrase {}", "the run of tokens {}", "the character sequence {}"),
    marks=("punctuation of any kind", "all punctuation marks", "any punctuation character"),
    only_after=(
        *("{}, provided that {} comes right before", "{} only where the previous token is {}"),
        *("{}, strictly when {} comes just before", "{} only in the position right after {}"),
    ),
    unless=(
        *("{}, other than directly after {}", "{} as long as the previous token is not {}"),
        *("{}, save where {} comes right before", "{}, though never right after {}"),
        *("{} (ignored where the token before is {})", "{} without {} right before"),
    ),
    union=(
        *("{}, plus {}", "{}, along with {}", "{}, or else {}", "(1) {}; (2) {}"),
        *("{}, and additionally {}", "{}, in addition to {}"),
    ),
    frames=(
        *("{}", "{}.", "{C}", "{C}.", "picks out {}", "Looks for {}.", "Sensitive to {}"),
        *("This unit lights up on {}.", "The neuron fires in response to {}."),
        *("This latent is selective for {}.", "Feature that tracks {}", "Trigger: {}"),
        *("What makes this latent fire: {}.", "Label: {C}", "Final explanation: {C}."),
        *("The common factor among the examples: {}.", "{C}, whatever the topic."),
        *("{C}, in any kind of document.", "This feature marks {}.", "Mainly {}."),
        *("The main thing this neuron does is find {}.", "The latent is most active on {}."),
        "Based on the examples, the latent is set off by {}.",
    ),
    negated=(
        *("anything that is not {}", "any token besides {}", "Never triggered by {}.", "Not {}."),
        *("The feature stays off on {}.", "Active everywhere save on {}.", "No activation on {}"),
        *("{C} will never set this latent off.", "The whole text with the exception of {}."),
        "The neuron skips {} and lights up on all the rest.",
    ),
    open=("e.g.", "for instance", "for example", "Mainly", "main thing", "most active"),
    errors=(
        *("\n", "Null", "NA", "not available", "--", "[]", "FIXME", "<empty>", "undefined"),
        *("[EXPLANATION]: None", "Explanation unavailable", "No label was generated."),
        "Failed to parse the explainer's output",
        "Empty response from model",
        "KeyError: 'choices'",
        "httpx.ReadTimeout: The read operation timed out",
        "Error code: 401 - {'error': {'message': 'Incorrect API key provided'}}",
        "anthropic.InternalServerError: Error code: 529 - overloaded_error",
        "504 Gateway Timeout",
        "<html><head><title>413 Request Entity Too Large</title></head></html>",
        "torch.OutOfMemoryError: Tried to allocate 512.00 MiB on GPU 0",
        "You exceeded your current quota, please check your plan and billing details.",
        "Sorry, but I won't be able to help with this one.",
        "This prompt was flagged as violating our usage policy.",
        "As a language model, I do not have access to the neuron's activations.",
        "The excerpts seem unrelated, so I can't say what the latent represents.",
        "It is not possible to tell from these excerpts what the neuron does.",
        "Could you share the activating examples so that I can explain them?",
        "No examples were provided.",
        "Something went wrong. Please try again later.",
    ),
)
