"""Paged lists."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from ._generated.types import Unset

Item = TypeVar("Item")
Page = TypeVar("Page")
Cursor = TypeVar("Cursor")


class Pages(Generic[Item, Page, Cursor]):
    """A list of the API. Iterating it yields the items of all pages, and sends a request for each page when it is
    reached. Each iteration begins anew."""

    def __init__(
        self,
        fetch: Callable[[Cursor], Page],
        first: Cursor,
        items: Callable[[Page], list[Item]],
        following: Callable[[Page], Cursor | None],
    ) -> None:
        self._fetch = fetch
        self._first = first
        self._items = items
        self._following = following

    def __iter__(self) -> Iterator[Item]:
        for page in self.by_page():
            yield from self._items(page)

    def by_page(self) -> Iterator[Page]:
        """Yields the pages. One may be empty and still be followed by another."""
        cursor = self._first
        while True:
            page = self._fetch(cursor)
            yield page
            following = self._following(page)
            if following is None or isinstance(following, Unset):
                return
            cursor = following
