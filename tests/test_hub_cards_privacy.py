"""The privacy gate: every kind in many forms, what only looks like it, and what redaction promises."""

import json
import re
import sys
import time
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hub_cards import credentials as secrets
from hub_cards.personal import NAME_MODELS, SPELT_OUT, SPELT_OUT_EMAIL
from hub_cards.privacy import KINDS, Finding, Kind, find_private, redacted
from stillhouse.errors import InputError
from stillhouse.sections import Private

PATTERNS: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind != "name")
RECIPES = Path(__file__).parent.parent / "recipes"
HEX = "9f86d081884c7d659a2feaa0c55ad015"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEAtM3l\nc0ffee==\n-----END RSA PRIVATE KEY-----"

# «» marks what has to be found, with nothing before or after it.
POSITIVES: dict[Kind, list[str]] = {
    "email": [
        "write to «ann.lee+shop@mail.example.co.uk».",
        "(«bob_77@example.com»)",
        "«o'brien@example.ie», please",
        'He said "«x@y.io»"!',
        "E-Mail: «jörg@müller.de»;",
        "письмо на «иван@почта.рф», пожалуйста",
        "联系: «user@example.cn»。",
        "¿«jose.maria@correo.es»?",
        "«me@xn--bcher-kva.example»",
        "<«a.b@c-d.org»>",
        "mailto:«kim@example.com»",
        "«jane [at] example [dot] com»",
        "«jane(at)example.com» works",
        "it is «john.smith at gmail dot com»",
        "«root@10.example.net»",
    ],
    "phone": [
        "Call «(212) 555-0123» now",
        "«212-555-0123»",
        "«+44 20 7946 0958»!",
        "«020 7946 0958», after six",
        "tel:«+12125550123»",
        "my number is «4155550123»",
        "«1-800-555-0199»",
        "ring «01273276865»",
        "«+49 30 123456»",
        "«+33 1 23 45 67 89»;",
        "WhatsApp «+91 98765 43210»",
        "text «404.246.9582»",
        "«+61 2 9374 4000»",
        "«0412 345 678» (Sydney)",
        "电话«+86 10 6552 9988»。",
    ],
    "card": [
        "card «4111 1111 1111 1111», exp 12/27",
        "«4111-1111-1111-1111»",
        "«5555555555554444».",
        "Amex «3782 822463 10005»",
        "«378282246310005»",
        "«6011 1111 1111 1117»",
        "«30569309025904»",
        "«3530 1113 3330 0000»",
        "«2223 0031 2200 3222»",
        "IBAN «DE89 3704 0044 0532 0130 00» please",
        "«GB29NWBK60161331926819»",
        "«FR14 2004 1010 0505 0001 3M02 606»",
        "iban: «nl91abna0417164300»",
        "«NO93 8601 1117 947», «BE68 5390 0754 7034»",
    ],
    "handle": [
        "thanks «@JoeBiden»!",
        "«@some_one99»: hi",
        ".. «@andrewrsorkin»'s book",
        "by «@anna@mastodon.social»",
        "«@name.bsky.social» said",
        "(«@Some.Body»)",
        "ask «u/throwaway_12»",
        "你好«@xiaoming»，谢谢",
        "«＠tanaka_t»",
        "https://tiktok.com/«@dancer.girl»",
        "«@user8472649173923»",
    ],
    "secret": [
        "key «AKIAIOSFODNN7EXAMPLE»",
        "«ghp_16C7e42F292c6912E7710c838347Ae178B4a»",
        "«github_pat_11ABCDEFG0aBcDeFgHiJkL_mNoPqRsTuVwXyZ0123456789»",
        "«hf_aBcDeFgHiJkLmNoPqRsTuVwXyZaBcDeFgH»",
        "«sk-proj-4f9aB7cD2eF6gH1iJ3kL5mN8oP0qR»",
        "«sk-ant-api03-4f9aB7cD2eF6gH1iJ3kL5mN8oP0qR»",
        "«xoxb-123456789012-abcdefGHIJKL0123»",
        "«AIzaSyD-9tSrke72PouQMnMX-a7eZSW0jkFMBWY»",
        "«glpat-aBcDeFgHiJkLmNoPqRsT»",
        f"Bearer «{JWT}»",
        f"here: «{PEM}» ok?",
        "https://«bob:p!ss@db.example.com»/x",
        "postgres://«:hunter2@»localhost",
        'password = "«hunter2x»"',
        "Password: «Tr0ub4dor&3», thanks",
        "my password is «letmein99»",
        "pwd=«qwe123!»",
        f'"api_key": "«{HEX}»"',
        "export AWS_SECRET_ACCESS_KEY=«wJalrXUtnFEMI/K7MDENG/bPxRfiCYEX4MPLEKEY»",
        f"?access_token=«{HEX}»",
        f"client-secret: «{HEX}»",
        "«123456789:AAEhBOweik6ad9r_QXMENQjcrGbqCr4K-bc»",
        "«sk_live_4eC39HqLyjWDarjtT1zdp7dc»",
        "contraseña: «abc12345»",
        "«npm_aBcDeFgHiJkLmNoPqRsTuVwXyZ0123456789»",
    ],
}  # fmt: skip
NEGATIVES = [
    "It cost $1,299.99 and then £45, 3 for 1 000 000 000 rupees.",
    "12/11/2024 14:00, 2024-05-17T12:30:45, 07.04.1999-09.04.1999",
    "Order 4155550123 and order no. 4155550124, invoice #4155550125, ref: 4155550126",
    "Order A-10293, ticket 112-1234567-1234567, build 8.4.1, ERR-5012",
    "ISBN 978-3-16-148410-0, ISBN: 0306406152, 9783161484100",
    "5/5, 10/10, 4.5 of 5, ***** and 3-1-2",
    "v2.14.3, 192.168.100.200, 3.1415926535, 16777216 10000000",
    "#blessed #MAGA2020 C# @ 5pm, @5pm, @ 9:30am, f@ck, $@#%, @#$*, me@home, 10 @ 3.50",
    "@user @USER @user, @username: hi @mention",
    "npm i @angular/core and root@localhost",
    "123e4567-e89b-12d3-a456-426614174000, commit da39a3ee5e6b4b0d3255bfef95601890afd80709",
    "The password is wrong again. Password: forgotten. The secret is garlic, the key: patience and time.",
    "my token of appreciation, session: tomorrow, a secret: internationalization-of-everything",
    "pass: 10/10 would buy again. Passport 2024. 4111 1111 1111 1112",
    "https://example.com/watch?v=dQw4w9WgXcQ&list=PL590L5WQmH8fJ54F and http://t.co/abcDEF1234",
    "meet me at dot com boom; look at Amazon dot com",
    "[EMAIL] [PHONE] [SECRET] password: [SECRET]",
    "pneumonoultramicroscopicsilicovolcanoconiosis soooooooooooooooooooooooooooo good",
    "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; 1111111111111111",
    "GOOOOOOOOOOOOOAAAAAAAL!!!!1111 SKAPARTMENTS2024 APEXLEGENDS",
    "أنا سعيد ١٢٣٤، 价格 1234 元、とても良い 12345 円",
    "",
]


def cut(text: str, findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.kind, text[finding.start : finding.end]) for finding in findings]


def of_patterns(text: str, *kinds: Kind) -> list[Finding]:
    return find_private([text], kinds or PATTERNS)[0]


@pytest.mark.parametrize(("kind", "marked"), [(kind, marked) for kind in POSITIVES for marked in POSITIVES[kind]])
@pytest.mark.parametrize("before", ["", "👩‍👩‍👧 ok: ", "Ünïcödé 😀\n"])
def test_each_kind_is_found_where_it_stands(kind: Kind, marked: str, before: str) -> None:
    text = before + re.sub("[«»]", "", marked)
    assert cut(text, of_patterns(text)) == [(kind, found) for found in re.findall("«(.*?)»", marked, re.DOTALL)]


@pytest.mark.parametrize("text", NEGATIVES)
def test_what_only_looks_like_it_is_left_alone(text: str) -> None:
    assert cut(text, of_patterns(text)) == []


@pytest.mark.parametrize("name", ["demo", "support"])
def test_the_texts_of_the_recipes_hold_nothing_private(name: str) -> None:
    texts = [json.loads(line)["text"] for line in (RECIPES / f"{name}_texts.jsonl").read_text("utf-8").splitlines()]
    found = find_private(texts, PATTERNS)
    assert [cut(text, findings) for text, findings in zip(texts, found, strict=True) if findings] == []


def test_kinds_are_those_of_the_recipe() -> None:
    assert set(KINDS) == set(Private.model_fields)


def test_only_what_is_asked_is_found() -> None:
    text = "a@b.com @joe 212-555-0123 password: x1y2z3 4111111111111111"
    assert [kind for kind, _ in cut(text, of_patterns(text))] == ["email", "handle", "phone", "secret", "card"]
    for kind in PATTERNS:
        assert {found.kind for found in of_patterns(text, kind)} == {kind}
    assert of_patterns("jörg.é@example.com", "handle") == []
    assert find_private([text], ()) == [[]]


def test_of_overlapping_findings_one_is_left_that_covers_all() -> None:
    text = "see ftp://bob:secret9@files.example.com/x"
    assert cut(text, of_patterns(text)) == [("secret", "bob:secret9@files.example.com")]
    assert redacted(text, of_patterns(text)) == "see ftp://[SECRET]/x"


def test_what_a_redaction_uncovers_is_found_too() -> None:
    text = "+12125550123@joe_smith"
    assert redacted(text, of_patterns(text)) == "[PHONE][HANDLE]"


def test_language_says_whose_national_numbers_are_read() -> None:
    text = "Ruf an: 030 901820, oder +44 20 7946 0958"
    assert cut(text, find_private([text], ["phone"], "de")[0])[0] == ("phone", "030 901820")
    assert cut(text, find_private([text], ["phone"], "eo")[0]) == [("phone", "+44 20 7946 0958")]


def test_empty_and_many_are_answered_in_order() -> None:
    assert find_private([], PATTERNS) == []
    done: list[int] = []
    texts = [f"a{number}@b.com" if number % 2 else "nothing" for number in range(2500)]
    found = find_private(texts, ["email"], report=done.append)
    assert [len(findings) for findings in found] == [number % 2 for number in range(2500)]
    assert done == [1000, 2000, 2500]


FRAGMENTS = st.one_of(
    st.sampled_from([re.sub("[«»]", "", text) for texts in POSITIVES.values() for text in texts] + NEGATIVES),
    st.sampled_from(["[EMAIL]", "[SECRET]", "@", "://", ":", "password=", "token:", "+1", "212", ".com", "u/", " at "]),
    st.text(max_size=12),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(FRAGMENTS, max_size=8).map("".join))
def test_redaction_is_complete_and_changes_nothing_else(text: str) -> None:
    findings = of_patterns(text)
    ends = [0, *(position for found in findings for position in (found.start, found.end)), len(text)]
    assert ends == sorted(ends)
    assert all(found.start < found.end for found in findings)
    once = redacted(text, findings)
    assert of_patterns(once) == []
    assert findings or once == text
    kept = [text[start:end] for start, end in zip(ends[::2], ends[1::2], strict=True)]
    marks = [f"[{found.kind.upper()}]" for found in findings] + [""]
    assert once == "".join(part + mark for part, mark in zip(kept, marks, strict=True))


@pytest.mark.parametrize("pattern", [*secrets.FORMATS, *secrets.library_formats()], ids=str)
def test_the_quick_look_loses_no_token(pattern: re.Pattern[str]) -> None:
    @settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
    @given(st.from_regex(pattern))
    def check(text: str) -> None:
        if any(len(match[0]) >= secrets.SHORTEST for match in pattern.finditer(text)):
            assert secrets.LONG_RUN.search(text)

    check()


@settings(max_examples=100, deadline=None)
@given(st.from_regex(secrets.NAMED))
def test_the_quick_look_loses_no_told_secret(text: str) -> None:
    assert any(cue in text.lower() for cue in secrets.CUES)


@settings(max_examples=100, deadline=None)
@given(st.from_regex(SPELT_OUT_EMAIL))
def test_the_quick_look_loses_no_address(text: str) -> None:
    assert SPELT_OUT.search(text)


@pytest.mark.parametrize(
    "piece",
    ["word word, ", "a", "a@", "@a", "a.", "a'", "eyJ", "sk-", "1 ", "212-555-0123 ", "DE89", "4", "://a:",
     "-----BEGIN RSA PRIVATE KEY-----", "aws key ", "password: ", "api_", "(at) ",
     "x at gmail dot ", "a@b.com ", "_", "\U0001f600"],
)  # fmt: skip
def test_a_long_text_takes_no_more_time_than_its_length(piece: str) -> None:
    start = time.process_time()
    of_patterns(piece * (100_000 // len(piece)))
    assert time.process_time() - start < 20


def test_a_missing_library_is_told_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "phonenumbers", None)
    with pytest.raises(InputError, match=r"phonenumbers.*pip install 'stillhouse\[publish\]'"):
        find_private(["call 212-555-0123"], ["phone"])


def test_names_are_found_by_the_real_model() -> None:
    texts = [
        "😀 I spoke to Maria Gonzalez and her manager David Price on Monday.",
        "Thanks, Peter Johnson!",
        "Lovely kettle, boils fast.",
        "",
    ]
    found = find_private(texts, ["name"])
    assert [redacted(text, findings) for text, findings in zip(texts, found, strict=True)] == [
        "😀 I spoke to [NAME] and her manager [NAME] on Monday.",
        "Thanks, [NAME]!",
        "Lovely kettle, boils fast.",
        "",
    ]
    assert find_private([redacted(text, new) for text, new in zip(texts, found, strict=True)], ["name"]) == [[]] * 4


def test_names_in_other_languages_are_refused_with_a_remedy() -> None:
    with pytest.raises(InputError, match=r"publish\.private\.name.*not in de.*keep"):
        find_private(["Ich heiße Anna Schmidt."], ["name"], "de")


def test_a_missing_name_model_is_told_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NAME_MODELS, "xx", ("no_such_pipeline", "no-such-package"))
    with pytest.raises(InputError, match=r"no-such-package.*pip install 'stillhouse\[privacy\]'"):
        find_private(["Anna Schmidt"], ["name"], "xx")
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(InputError, match=r"names need spaCy.*pip install 'stillhouse\[privacy\]'"):
        find_private(["Anna Schmidt"], ["name"], "xx")


def test_kinds_cover_the_type() -> None:
    assert get_args(Kind) == KINDS
