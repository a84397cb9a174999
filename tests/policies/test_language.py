"""The mechanical part of the rules of language: docstrings, comments and messages of the packages.

The rules are those of CONTRIBUTING.md: a reader who knows the field understands each sentence at the first reading.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.policies.repository import PACKAGES, ROOT, Package

OPENINGS = (
    *("What", "Whose", "Whether", "How", "Which", "Where"),
    *("Of", "Between", "Among", "By", "With", "As", "On", "In", "From", "Into", "Under", "Over", "Beside", "At"),
)
"""Words that begin a riddle, not a docstring: a function's begins with a verb, a field's is a noun phrase."""

BRITISH = re.compile(
    r"\b(?:\w*(?:initialis|normalis|materialis|serialis|optimis|parallelis(?=[ei])|synchronis|recognis|organis"
    r"|summaris|generalis|specialis|randomis|minimis|maximis|customis)(?:e|ed|es|er|ers|ing|ation|ations)"
    r"|\w*(?:colour|behaviour|neighbour|favour|honour)\w*|centre[sd]?|analys(?:e|ed|es|ing)|catalogues?|artefacts?"
    r"|labell(?:ed|ing)|modell(?:ed|ing)|cancell(?:ed|ing)|misspelt|learnt|whilst|grey|licence)\b",
    re.IGNORECASE,
)
PHRASES = {
    r"\bone's own\b": "custom, or your own",
    r"\bof mine\b": "my",
    r"\bnumber formats?\b": "dtype",
    r"(?<!multi-head )\blatent attention\b": "MLA",
    r"\bmixtures?\b(?![ -]of[ -]experts)": "MoE layer",
    r"\bwhole (?:state|weights)\b": "full or unsharded state dict",
    r"\b(?:un)?mendable\b|\bmend(?:s|ed|ing)?\b": "user error, or fix",
    r"\blikeliest\b": "most likely",
    r"\bfill(?:s|ed) up\b": "padded",
    r"\bguessing\b": "uniform baseline",
    r"\b(?:is|are|was|were) told\b": "receives, or is reported",
    r"\bgo(?:es)? on (?:with|from|to)\b": "continue",
}
SENTENCE = re.compile(r"(?<=[.!?:])\s+(?=[A-Z`])")
CODE = re.compile(r"``.+?``|`[^`]*`", re.DOTALL)


@dataclass(frozen=True)
class Text:
    """A piece of prose in a file."""

    path: Path
    line: int
    words: str

    def __str__(self) -> str:
        """Return the place and the begin of the text."""
        return f"{self.path.relative_to(ROOT)}:{self.line}: {' '.join(self.words.split())[:100]}"


each_package = pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.name)


def sources(package: Package) -> list[Path]:
    """Return the files of a package that are installed."""
    return sorted((package.folder / "src").rglob("*.py"))


def docstrings(path: Path) -> Iterator[Text]:
    """Yield the docstrings of modules, classes, functions and fields."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for statement in getattr(node, "body", None) or [] if not isinstance(node, ast.Lambda | ast.IfExp) else []:
            match statement:
                case ast.Expr(value=ast.Constant(value=str(words))):
                    yield Text(path, statement.lineno, words)


def prose(path: Path) -> Iterator[Text]:
    """Yield every string literal and comment, without the code spans in it."""
    readline = io.StringIO(path.read_text(encoding="utf-8")).readline
    for token in tokenize.generate_tokens(readline):
        if token.type in (tokenize.STRING, tokenize.COMMENT, tokenize.FSTRING_MIDDLE):
            yield Text(path, token.start[0], CODE.sub("`…`", token.string))


def paragraphs(docstring: str) -> Iterator[str]:
    """Yield the paragraphs of a docstring, and the entries of its sections one by one."""
    yield from re.split(r"\n\s*\n|\n\s+(?=\*{0,2}\w+: )|\n(?=\s*- )", docstring)


@each_package
def test_docstrings_begin_with_a_verb_or_a_noun(package: Package):
    """ "What is measured" and "Of this rank" have no subject, so the reader guesses one."""
    found = [
        str(text) for path in sources(package) for text in docstrings(path) if text.words.split(" ")[0] in OPENINGS
    ]
    assert found == []


@each_package
def test_spelling_is_american(package: Package):
    """Two spellings of one word are two names to search for."""
    found = [str(text) for path in sources(package) for text in prose(path) if BRITISH.search(text.words)]
    assert found == []


@each_package
def test_terms_are_those_of_the_field(package: Package):
    """A private word for a common thing has to be learned, and cannot be searched for."""
    found = [
        f"{text} [write: {instead}]"
        for path in sources(package)
        for text in prose(path)
        for phrase, instead in PHRASES.items()
        if re.search(phrase, text.words, re.IGNORECASE)
    ]
    assert found == []


@each_package
def test_no_sentence_is_a_chain_of_semicolons(package: Package):
    """Three clauses in one sentence are read twice; a sentence has two at most."""
    found = [
        f"{text} [{' '.join(sentence.split())}]"
        for path in sources(package)
        for text in docstrings(path)
        for paragraph in paragraphs(CODE.sub("`…`", text.words))
        for sentence in SENTENCE.split(paragraph)
        if sentence.count(";") > 1
    ]
    assert found == []


def test_the_rules_find_what_they_forbid():
    """A pattern that matches nothing would pass forever."""
    assert BRITISH.search("it initialises the colour")
    assert not BRITISH.search("parallelism is optimistic, and an analysis of parallelisms")
    for bad in ("a mixture", "latent attention", "of one's own", "number format", "the likeliest", "is filled up"):
        assert any(re.search(phrase, bad) for phrase in PHRASES), bad
    for good in ("multi-head latent attention", "a mixture of experts", "recommended", "amended"):
        assert not any(re.search(phrase, good) for phrase in PHRASES), good
