"""`ThreadPatch`: replacements of attributes that apply only in the threads that entered the patch.

An attribute of a module or class belongs to the whole process, so a plain `setattr` changes it for every thread. Each
replacement here checks first whether the calling thread has entered, and calls the original in other threads. The first
thread that enters sets the attributes, and the last one that leaves restores the originals.
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Generator, Iterable
from typing import Any, final

type Change = tuple[Any, str, Any]
"""Owner (a module or class), name of the attribute, and its replacement."""


@final
class ThreadPatch:
    """A set of replaced attributes, entered by `with patch():`. Blocks can be nested, and overlap across threads.

    Args:
        changes: Returns the replacements; called when the first thread enters. A class is set as it is, for all
            threads, because `isinstance` needs the class itself. An object that cannot be called is set for all threads
            too.
        around: Makes a context that the first thread enters and the last one leaves.
    """

    def __init__(
        self,
        changes: Callable[[], Iterable[Change]],
        *,
        around: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext,
    ) -> None:
        self._changes = changes
        self._around = around
        self._lock = threading.RLock()
        self._depths = threading.local()
        self._count = 0
        self._undo = contextlib.ExitStack()

    @property
    def entered(self) -> bool:
        """True in a thread that has entered."""
        return bool(getattr(self._depths, "value", 0))

    @contextlib.contextmanager
    def __call__(self) -> Generator[None]:
        """Enter the patch for this thread until the end of the block."""
        with self._lock:
            if self._count == 0:
                self._install()
            self._count += 1
        self._depths.value = getattr(self._depths, "value", 0) + 1
        try:
            yield
        finally:
            self._depths.value -= 1
            with self._lock:
                self._count -= 1
                if self._count == 0:
                    self._undo.close()

    def _install(self) -> None:
        """Set every attribute. If one fails, restore those that were set before it."""
        with contextlib.ExitStack() as undo:
            changes = list(self._changes())
            for owner, name, replacement in changes:
                undo.callback(self._replace(owner, name, replacement))
            undo.enter_context(self._around())
            self._undo = undo.pop_all()

    def _replace(self, owner: Any, name: str, replacement: Any) -> Callable[[], None]:
        """Set an attribute and return the call that restores it. An inherited attribute is restored by deletion."""
        own = name in vars(owner)
        before = getattr(owner, name)
        plain = isinstance(replacement, type) or not callable(replacement)
        setattr(owner, name, replacement if plain else self._chosen(replacement, before))
        return functools.partial(setattr, owner, name, before) if own else functools.partial(delattr, owner, name)

    def _chosen(self, replacement: Callable[..., Any], before: Any) -> Callable[..., Any]:
        """Return a function that calls the replacement in threads that have entered, and the original in others."""

        @functools.wraps(before)
        def chosen(*args: Any, **kwargs: Any) -> Any:
            return (replacement if self.entered else before)(*args, **kwargs)

        return chosen
