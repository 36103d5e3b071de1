"""What waits for its turn, which goes from brand to brand: one that asks much holds up itself."""

from collections import OrderedDict, deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Line(Generic[T]):
    """Of each brand what came first is first."""

    def __init__(self) -> None:
        self._of: OrderedDict[str, deque[T]] = OrderedDict()  # of those that have any; whose turn is next is first
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def of(self, brand: str) -> int:
        """How many a brand has."""
        return len(self._of.get(brand, ()))

    def push(self, brand: str, one: T) -> None:
        """Behind all others of this brand."""
        self._of.setdefault(brand, deque()).append(one)
        self._count += 1

    def push_back(self, brand: str, one: T) -> None:
        """Before all others of this brand, where it was."""
        self._of.setdefault(brand, deque()).appendleft(one)
        self._count += 1

    def pop(self) -> T:
        """The next one. There must be one."""
        brand, line = next(iter(self._of.items()))
        if len(line) > 1:
            self._of.move_to_end(brand)
        else:
            del self._of[brand]
        self._count -= 1
        return line.popleft()
