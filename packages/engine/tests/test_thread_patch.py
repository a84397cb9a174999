"""A patch applies to the threads that entered it, nests, and leaves nothing behind even after a failure."""

import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from modelwright.engine import Change, ThreadPatch


class Parent:
    def greet(self) -> str:
        return "parent"


class Child(Parent):
    pass


def test_the_replacement_holds_inside_alone() -> None:
    owner = SimpleNamespace(answer=lambda: "original")
    before = owner.answer
    patch = ThreadPatch(lambda: [(owner, "answer", lambda: "replaced")])
    with patch():
        assert (owner.answer(), patch.entered) == ("replaced", True)
        with patch():
            assert owner.answer() == "replaced"
        assert owner.answer() == "replaced"
    assert owner.answer is before
    assert not patch.entered


def test_other_threads_call_the_original_until_they_enter() -> None:
    owner = SimpleNamespace(answer=lambda: "original")
    patch = ThreadPatch(lambda: [(owner, "answer", lambda: "replaced")])
    heard: list[str] = []

    def other() -> None:
        heard.append(owner.answer())
        with patch():
            heard.append(owner.answer())

    with patch():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert heard == ["original", "replaced"]


def test_threads_may_leave_in_any_order() -> None:
    owner = SimpleNamespace(answer=lambda: "original")
    before = owner.answer
    patch = ThreadPatch(lambda: [(owner, "answer", lambda: "replaced")])
    entered, leave = threading.Event(), threading.Event()
    heard: list[str] = []

    def other() -> None:
        with patch():
            entered.set()
            leave.wait()
            heard.append(owner.answer())

    thread = threading.Thread(target=other)
    with patch():
        thread.start()
        entered.wait()
    assert owner.answer() == "original"  # this thread has left
    leave.set()
    thread.join()
    assert heard == ["replaced"]
    assert owner.answer is before


def test_an_inherited_attribute_is_inherited_again() -> None:
    patch = ThreadPatch(lambda: [(Child, "greet", lambda self: "patched")])
    with patch():
        assert (Child().greet(), Parent().greet()) == ("patched", "parent")
    assert "greet" not in vars(Child)


def test_a_failure_while_it_is_installed_undoes_what_was_done() -> None:
    owner = SimpleNamespace(answer=lambda: "original")
    before = owner.answer

    def changes() -> Iterator[Change]:
        yield owner, "answer", lambda: "replaced"
        yield owner, "missing", lambda: None

    patch = ThreadPatch(changes)
    with pytest.raises(AttributeError), patch():
        pass
    assert owner.answer is before
    assert not patch.entered


def test_classes_and_values_are_set_as_they_are() -> None:
    owner = SimpleNamespace(kind=Parent, number=1)
    with ThreadPatch(lambda: [(owner, "kind", Child), (owner, "number", 2)])():
        assert (owner.kind, owner.number) == (Child, 2)
    assert (owner.kind, owner.number) == (Parent, 1)
