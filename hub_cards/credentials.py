"""Where secrets stand in a text: keys, tokens, private keys and passwords."""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

# Formats that detect-secrets does not know, or whose patterns there take quadratic time or leave a part of the secret.
FORMATS = tuple(
    map(
        re.compile,
        (
            r"(?<![\w-])sk-(?=[\w-]*\d)[A-Za-z0-9_-]{20,}",  # OpenAI, Anthropic, DeepSeek, OpenRouter
            r"(?<![\w-])eyJ[\w-]{8,}+\.eyJ[\w-]{8,}+(?:\.[\w-]*+)?",  # JWT
            r"(?<!\w)hf_[A-Za-z0-9]{30,}",  # Hugging Face
            r"(?<!\w)github_pat_\w{22,}",
            r"(?<!\w)AIza[\w-]{35}",  # Google
            r"(?<!\w)ya29\.[\w-]{20,}",
            r"(?<!\w)xapp-\d-[A-Za-z0-9-]{20,}",  # Slack
            r"(?<!\w)xox[a-z]-[A-Za-z0-9-]{10,}",
            r"(?<!\w)(?:gsk|nvapi|xai|r8|pplx|glsa|dop_v1|dapi|shpat|npm|rk_live|sk_test)[_-]?(?=\w*\d)[\w-]{30,}",
        ),
    )
)
LONG_RUN = re.compile(r"[\w.:/+=-]{14}")  # is in everything that has one of these formats, and in few other texts
IN_ADDRESS = re.compile(r"(?<=://)[^\s/@:]{0,256}+:[^\s/@]{1,256}+@")  # user and password
PRIVATE_KEY = re.compile(
    r"-----BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)?-----(?:.*?-----END [A-Z0-9 ]{1,40}-----|.*)", re.DOTALL
)
LIBRARY_FORMATS = (
    *("AWSKeyDetector", "AzureStorageKeyDetector", "DiscordBotTokenDetector", "GitHubTokenDetector"),
    *("GitLabTokenDetector", "MailchimpDetector", "PypiTokenDetector", "SendGridDetector", "SlackDetector"),
    *("SquareOAuthDetector", "StripeDetector", "TelegramBotTokenDetector", "TwilioKeyDetector"),
)
SHORTEST = 14  # characters of a token
REST_OF_TOKEN = re.compile(r"[\w-]*")

# A value that is told to be a secret.
NAMED = re.compile(
    r"(?<![A-Za-z])(?:(?P<password>passw(?:or)?d|passphrase|passcode|pwd|passwort|contraseña|mot de passe|senha)"
    r"|(?:[A-Za-z]{1,20}[_-]){0,4}"
    r"(?:(?:api|access|secret|private|auth|client|account|encryption|license)[_ -]?(?:key|token|secret)"
    r"|secret|token|bearer|apikey|credential|signature|session))(?:[_-]\w{1,20}+)?"
    r"[\"'`]?(?:\s{0,3}(?::=|=>|[=:])\s{0,3}|\s(?:is|was|ist|es|est)\s{1,3}:?\s{0,3}|(?<=[Bb]earer)\s)[\"'`]?"
    r"(?P<value>[^\s\"'`,;<>\[\]{}()]{6,512})",
    re.IGNORECASE,
)
# One of these is in every text that NAMED finds something in: looking for them is much quicker.
CUES = (
    *("pass", "pwd", "contrase", "senha", "secret", "token", "bearer", "credential", "signature", "session"),
    *("api", "access", "private", "auth", "client", "account", "encryption", "license"),
)
KEY_LENGTH, KEY_ENTROPY = 16, 3.0  # of a key: as long, and as many bits per character, at least


def credentials(text: str) -> Iterator[tuple[int, int]]:
    """Yield where secrets stand: by their format, or because the text says that a value is one."""
    if "://" in text:
        yield from (match.span() for match in IN_ADDRESS.finditer(text))
    if "PRIVATE KEY" in text:
        yield from (match.span() for match in PRIVATE_KEY.finditer(text))
    if LONG_RUN.search(text):
        for pattern in (*FORMATS, *library_formats()):
            yield from _tokens(pattern, text)
    yield from _told(text)


def _tokens(pattern: re.Pattern[str], text: str) -> Iterator[tuple[int, int]]:
    for match in pattern.finditer(text):
        end = REST_OF_TOKEN.match(text, match.end()).end()  # type: ignore[union-attr]  # it matches nothing, too
        if end - match.start() >= SHORTEST and not text[max(0, match.start() - 1) : match.start()].isalnum():
            yield match.start(), end


def _told(text: str) -> Iterator[tuple[int, int]]:
    lower = text.lower()
    if not any(cue in lower for cue in CUES):
        return
    for match in NAMED.finditer(text):
        if _is_secret(match["value"], is_password=match["password"] is not None):
            yield match.start("value"), match.end("value")


@cache
def library_formats() -> tuple[re.Pattern[str], ...]:
    """Return the patterns that are taken from detect-secrets."""
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    classes: dict[str, Any] = get_mapping_from_secret_type_to_class()
    by_name = {plugin.__name__: plugin for plugin in classes.values()}
    return tuple(pattern for name in LIBRARY_FORMATS for pattern in by_name[name].denylist)


def _is_secret(value: str, *, is_password: bool) -> bool:
    """Tell secrets from words: a password has letters and something else, a key is long and random."""
    value = value.rstrip(".!?:")
    has_letters, has_digits = any(map(str.isalpha, value)), any(map(str.isdecimal, value))
    if is_password:
        return len(value) >= 6 and has_letters and has_digits
    from detect_secrets.plugins.high_entropy_strings import Base64HighEntropyString

    entropy = Base64HighEntropyString().calculate_shannon_entropy(value)
    return len(value) >= KEY_LENGTH and has_letters and has_digits and entropy >= KEY_ENTROPY
