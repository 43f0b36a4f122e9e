// Paged lists.

/**
 * Query parameter with which a list goes on.
 * @internal
 */
export interface Next {
  cursor?: string;
  after?: number;
}

/**
 * A list of the API. Iterating it yields the items of all pages, and sends a request for each page when it is
 * reached. Each iteration begins anew.
 */
export class Pages<Item, Page extends {data: Item[]}> implements AsyncIterable<Item> {
  readonly #fetch: (next: Next) => Promise<Page>;
  readonly #following: (page: Page) => Next | null;

  /** @internal */
  constructor(fetch: (next: Next) => Promise<Page>, following: (page: Page) => Next | null) {
    this.#fetch = fetch;
    this.#following = following;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Item, void, void> {
    for await (const page of this.byPage()) yield* page.data;
  }

  /** Yields the pages. One may be empty and still be followed by another. */
  async *byPage(): AsyncGenerator<Page, void, void> {
    let next: Next | null = {};
    while (next) {
      const page: Page = await this.#fetch(next);
      yield page;
      next = this.#following(page);
    }
  }
}
