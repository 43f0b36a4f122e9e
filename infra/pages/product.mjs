// The local product for tests: customers, each with a browser session, and what they ask of the API.

import assert from 'node:assert/strict';
import {createRequire} from 'node:module';
import {join} from 'node:path';
import {after, before, test} from 'node:test';

const {CHROMIUM, PAGES_INSTALLED, RETURN_ORIGIN, STRIPE_FAKE_URL, TOLLGATE_ADMIN_KEY, TOLLGATE_URL} = process.env;
const {chromium} = createRequire(join(PAGES_INSTALLED, 'x.js'))('playwright-core');

/** Time after which a page is not expected to change any more. */
const TIMEOUT_MS = 15_000;
/** Width of a phone: what does not fit is noticed. */
const VIEWPORT = {width: 360, height: 740};
const FLAGS = [
  '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync',
];

let browser;
before(async () => {
  browser = await chromium.launch({executablePath: CHROMIUM, args: FLAGS});
});
after(() => browser?.close());

/** Sends a request. The response must be a success unless a status is given; returns its JSON. */
async function send(method, url, {key, body, form, status} = {}) {
  const headers = {};
  if (key) headers['x-api-key'] = key;
  if (body) headers['content-type'] = 'application/json';
  if (url.startsWith(STRIPE_FAKE_URL)) headers.authorization = 'Bearer sk_test_stripe_fake';
  const sent = form ? new URLSearchParams(form) : body && JSON.stringify(body);
  const response = await fetch(url, {method, headers, body: sent});
  const text = await response.text();
  const isExpected = status ? response.status === status : response.ok;
  assert(isExpected, `${method} ${url}: ${response.status} ${text}`);
  return text ? JSON.parse(text) : null;
}

const asAdmin = (method, path, body) => send(method, `${TOLLGATE_URL}${path}`, {key: TOLLGATE_ADMIN_KEY, body});

/** Sends a request to the stand-in for Stripe. */
export const atStripe = (method, path, given) => send(method, `${STRIPE_FAKE_URL}${path}`, given);

/** Advances the clock. What is due at Stripe until then happens. */
export const advance = seconds => send('POST', `${TOLLGATE_URL}/_local/clock`, {body: {advance_s: seconds}});

/** Creates a plan that customers can buy. */
export async function createPlan(id, name, cents) {
  const price = await atStripe('POST', '/v1/prices', {form: {
    currency: 'usd', unit_amount: cents, 'recurring[interval]': 'month', 'product_data[name]': name,
  }});
  const definition = {
    name, requests_per_hour: 1_000, month: {kind: 'unlimited'}, fail_mode: 'open',
    monthly_fee_cents: cents, stripe_price: price.id,
  };
  await asAdmin('POST', '/admin/plans', {id, definition});
}

/** Returns the address of the page of the operator's to which customers are led back. */
export const returnUrl = page => `${RETURN_ORIGIN}/${page}`;

/** A customer on the plan `free`, with a key for each role and a browser session. */
class Customer {
  /** What pages did and must not do. */
  faults = [];

  constructor(id, context) {
    this.id = id;
    this.context = context;
    context.setDefaultTimeout(TIMEOUT_MS);
    context.on('console', message => {
      const {url} = message.location();
      // The product has no icon, for which browsers ask by themselves.
      if (message.type() !== 'error' || url === `${TOLLGATE_URL}/favicon.ico`) return;
      this.faults.push(`${url}: ${message.text()}`);
    });
    context.on('weberror', thrown => this.faults.push(`${thrown.page()?.url()}: ${thrown.error()}`));
    context.on('request', request => {
      const isAllowed = ['data:', 'blob:'].includes(new URL(request.url()).protocol)
        || [TOLLGATE_URL, STRIPE_FAKE_URL, RETURN_ORIGIN].includes(new URL(request.url()).origin);
      if (!isAllowed) this.faults.push(`a request to ${request.url()}`);
    });
  }

  static async create(id) {
    const context = await browser.newContext({viewport: VIEWPORT});
    const customer = new Customer(id, context);
    await asAdmin('POST', '/admin/customers', {id, plan: 'free'});
    const createKey = role => asAdmin('POST', '/admin/api-keys', {customer_id: id, role});
    customer.callKey = (await createKey('call')).key;
    customer.manageKey = (await createKey('manage')).key;
    return customer;
  }

  /** Opens a page in a new tab. */
  async open(url) {
    const page = await this.context.newPage();
    await page.goto(url);
    return page;
  }

  /** Sends a request with the key that may manage. */
  manage(method, path, body) {
    return send(method, `${TOLLGATE_URL}/api/billing/${path}`, {key: this.manageKey, body});
  }

  /** Starts a checkout, and returns the address of its page. */
  async startCheckout(plan) {
    const body = {plan, success_url: returnUrl('paid'), cancel_url: returnUrl('cancelled')};
    return (await this.manage('POST', 'checkout', body)).url;
  }

  /** Buys a plan. */
  async buy(plan) {
    const page = await this.open(await this.startCheckout(plan));
    await page.getByRole('button', {name: 'Pay by card'}).click();
    await page.waitForURL(returnUrl('paid'));
    await page.close();
  }

  /** Opens the billing portal in a new tab. */
  async openPortal() {
    return this.open((await this.manage('POST', 'portal', {return_url: returnUrl('managed')})).url);
  }

  /** Returns plan and subscription, after all that Stripe has reported. */
  async subscription() {
    await send('POST', `${TOLLGATE_URL}/_local/drain`, {body: {}});
    return this.manage('GET', 'subscription');
  }

  async assertPlan(plan) {
    assert.equal((await this.subscription()).plan.id, plan);
  }

  /** Makes a call, after the time for which keys are cached. */
  async call(status) {
    await advance(10);
    return send('GET', `${TOLLGATE_URL}/api/secure/ping`, {key: this.callKey, status});
  }

  /** Returns the Stripe customer's id. */
  async stripeCustomer() {
    return (await asAdmin('GET', `/admin/customers/${this.id}`)).stripe.customer;
  }

  /** Returns the objects of the customer at Stripe: `subscriptions`, ended ones included, or `invoices`. */
  async listAtStripe(what) {
    const query = new URLSearchParams({customer: await this.stripeCustomer()});
    if (what === 'subscriptions') query.set('status', 'all');
    return (await atStripe('GET', `/v1/${what}?${query}`)).data;
  }

  /** Expects one fault: that a page had an error status, which the browser reports. */
  expectStatus(status) {
    const at = this.faults.findIndex(fault => fault.includes(`responded with a status of ${status}`));
    assert.notEqual(at, -1, `no page had the status ${status}: ${this.faults}`);
    this.faults.splice(at, 1);
  }
}

let customers = 0;

/** Defines a test with a customer of its own. When it fails, a picture of each open page is kept. */
export function story(name, run) {
  test(name, async () => {
    customers += 1;
    const customer = await Customer.create(`pages-${process.pid}-${customers}`);
    try {
      await run(customer);
      assert.deepEqual(customer.faults, []);
    } catch (error) {
      await Promise.all(customer.context.pages().map(async (page, at) => {
        const path = join(PAGES_INSTALLED, `${customer.id}-${at}.png`);
        // Without a picture, the test's own error still says more than why there is none.
        const outcome = await page.screenshot({path}).then(() => `see ${path}`, failed => failed.message);
        console.error(`${name}: ${page.url()}: ${outcome}`);
      }));
      throw error;
    } finally {
      await customer.context.close();
    }
  });
}

/** Asserts that a page is not wider than the screen. */
export async function assertFits(page) {
  const width = await page.evaluate(() => document.documentElement.scrollWidth);
  assert(width <= VIEWPORT.width, `${page.url()} is ${width} pixels wide`);
}
