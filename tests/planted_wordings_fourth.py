"""A fourth way to word explanations: plainly, as language models most often do.

It was written by someone who had not seen how the audit reads explanations. Its templates are its
own, but for those that English leaves no choice in.
"""

from tests.planted_wordings import Wording

FOURTH = Wording(
    one={
        "token": (
            *("{}", "the exact token {}", "any occurrence of {}", "the exact string {}"),
            *("the individual token {}", "appearances of the token {}"),
        ),
        "word": (
            *("the exact word {}", "any occurrence of the word {}", "the word {} itself"),
            *("the specific word {}", "{}"),
        ),
        "mark": (
            *("any {} character", "tokens whose last character is {}"),
            "occurrences of the symbol {}",
        ),
    },
    many={
        "token": (
            *("{}", "the exact tokens {}", "any of these tokens: {}", "occurrences of {}"),
            *("specific tokens such as {}", "a variety of tokens, including {}"),
            "several different tokens ({})",
        ),
        "word": (
            *("the following words: {}", "any of these words: {}", "{}"),
            *("specific words such as {}", "a variety of words, including {}"),
            "several different words ({})",
        ),
        "mark": (
            *("any of the characters {}", "tokens whose last character is one of {}"),
            "occurrences of the symbols {}",
        ),
    },
    listing={
        "after": (
            *("tokens immediately after {}", "the token directly after {}"),
            *("tokens that immediately follow {}", "any token that comes immediately after {}"),
            *("tokens which appear right after {}", "the token that comes next after {}"),
            "tokens occurring immediately after {}",
        ),
        "after word": (
            *("tokens immediately after the word {}", "the token directly after the word {}"),
            "any token that comes immediately after the word {}",
        ),
        "next word": (
            *("the word directly after {}", "words that immediately follow {}"),
            *("words immediately after the word {}", "any word that comes right after {}"),
            "words which appear directly after {}",
        ),
        "suffix": (
            *("any word that ends in {}", "words that have the ending {}"),
            *("words containing the suffix {}", "any word with the suffix {}"),
            "words that end with the letters {}",
        ),
        "prefix": (
            *("any word that begins with {}", "words starting with the prefix {}"),
            *("words containing the prefix {}", "any word with the prefix {}"),
            "words that start with the letters {}",
        ),
    },
    pair=(
        *("{b} immediately after {a}", "{b} when the preceding token is {a}"),
        *("{b} when it appears right after {a}", "{b}, specifically when it is preceded by {a}"),
        *("the token {b} when preceded by {a}", "{b} where it comes directly after {a}"),
    ),
    phrase=("the exact phrase {}", "the consecutive tokens {}", "the multi-token string {}"),
    marks=("punctuation tokens", "all types of punctuation", "any kind of punctuation mark"),
    only_after=(
        *("{} when the preceding token is {}", "{}, specifically when preceded by {}"),
        *("{} appearing right after {}", "{}, only when immediately preceded by {}"),
    ),
    unless=(
        *("{}, unless the preceding token is {}", "{}, but not immediately after {}"),
        *("{}, except when {} comes immediately before", "{} when not immediately preceded by {}"),
        *("{} (except immediately after {})", "{}, excluding cases where the prior token is {}"),
    ),
    union=(
        *("{} and/or {}", "{}, or {}", "{}, or alternatively {}", "{} and, separately, {}"),
        *("two things: {} and {}", "{} and, in other cases, {}"),
    ),
    frames=(
        *("{}", "{}.", "{C}", "{C}.", "The neuron activates on {}.", "Identifies {}."),
        *("The latent is activated by {}.", "This feature is triggered by {}."),
        *("The highlighted tokens correspond to {}.", "The activations occur on {}."),
        *("The latent focuses on {}.", "This neuron appears to detect {}."),
        *("The feature consistently activates on {}.", "The common pattern is {}."),
        *("The neuron seems to respond to {}.", "This latent activates when it encounters {}."),
        *("Interpretation: {C}.", "Feature description: {C}"),
        *("{C}, in a wide range of contexts.", "High activation for {}."),
        *("The latent primarily activates on {}.", "The feature mostly fires on {}."),
        "In all of the examples, the neuron activates on {}.",
    ),
    negated=(
        *(
            "everything with the exception of {}",
            "The neuron does not activate on {}.",
            "all text except {}",
        ),
        *("This feature activates on everything except {}.", "Every token other than {}."),
        *("The latent is not activated by {}.", "Activates on any token apart from {}."),
        *("This feature shows no activation on {}.", "all tokens, excluding {}"),
        "The latent does not respond to {}, but it activates on all other tokens.",
    ),
    open=("such as", "including", "primarily", "mostly", "High activation"),
    errors=(
        *("\t", "NONE", "n.a.", "Not Available", "----", "{}", "XXX", "<none>", "missing"),
        *("explanation: null", "No explanation was returned.", "No interpretation available"),
        "Error: could not parse model output",
        "The model returned an empty completion.",
        "IndexError: list index out of range",
        "requests.exceptions.ConnectTimeout: Connection to api.openai.com timed out",
        "Error code: 403 - {'error': {'message': 'Project does not have access to model'}}",
        "openai.APIConnectionError: Connection error.",
        "520 Web Server Returned an Unknown Error",
        '{"detail": "Not Found"}',
        "CUDA error: out of memory",
        "Too many requests, please slow down.",
        "I'm sorry, I can't help with that.",
        "The request was rejected as a result of our safety system.",
        "As an AI, I don't have enough context to interpret this feature.",
        "There is no consistent pattern in the examples.",
        "I was unable to find anything that these examples have in common.",
        "It looks like you haven't included any examples. Could you share them?",
        "The list of examples is empty.",
        "An unexpected error occurred.",
    ),
)
