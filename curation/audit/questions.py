"""What an annotator is asked about a record, the same in Argilla, in a spreadsheet and on a page."""

VERDICTS = {
    "correct": "The answer does what the instruction asks, and the text bears it out.",
    "wrong": "It does not: at least one thing in it has to change.",
    "unclear": "Competent readers could disagree, or the text or the instruction cannot be understood.",
}
FAULTS = {
    "wrong answer": "The label, number or statement does not fit the text.",
    "incomplete": "Something the instruction asks for is missing.",
    "invented": "It says something that the text does not say.",
    "wrong words": "The wrong words of the text are marked or quoted.",
    "bad form": "It has another form or language than the instruction asks for.",
    "bad instruction": "The instruction makes no sense for this text.",
    "bad text": "The text itself is garbled, empty or not by a user.",
}
RATINGS = range(1, 6)

GUIDELINES = """\
You are shown a text that a person wrote, an instruction about it, and an answer that a language model gave. Say
whether the answer is right. Your verdicts decide whether this data is good enough to train another model, so judge
what is there, not what was meant. Ten to fifteen seconds a record are enough for most.

1. **Read the instruction, then the text.** Words of the text that the answer quotes are marked.
2. **Verdict**
{verdicts}
3. **Where it is wrong, say what is wrong** (several may apply)
{faults}
4. **Where it is wrong, correct the answer.** Its box holds the model's answer: change what has to be changed, and
   keep its form. Labels, numbers and field names are those of the instruction; quoted words are copied from the text
   letter by letter. A correct answer needs no change.
5. **Quality**, from 1 (useless) to 5 (you could not have said it better), is about how well the answer is put.

Two rules for the hard ones: an opinion in the text counts as it is worded, also where you would see it otherwise; and
where you hesitate for more than half a minute, choose `unclear`.
"""


def guidelines() -> str:
    """Return the guidelines as Markdown, for a person who has never heard of the project."""
    verdicts, faults = (
        "\n".join(f"   - **{name}**: {meaning}" for name, meaning in answers.items()) for answers in (VERDICTS, FAULTS)
    )
    return GUIDELINES.format(verdicts=verdicts, faults=faults)
