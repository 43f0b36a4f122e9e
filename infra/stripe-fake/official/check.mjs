// Calls the stand-in for Stripe with the official Node library.
//
//     infra/stripe-fake/official/run                            against the stand-in, with the Python library too
//     STRIPE_TEST_KEY=sk_test_… infra/stripe-fake/official/run  against Stripe's test mode
//
// In test mode, what needs the stand-in's clock, faults or webhooks is skipped. The customers that it creates there
// are deleted, with their subscriptions; products and prices cannot be deleted, and are deactivated.
//
// Without `run`: STRIPE_FAKE_URL, or STRIPE_TEST_KEY, has to be set, and the package installed where Node finds it.

import assert from 'node:assert/strict';
import {randomUUID} from 'node:crypto';
import {createRequire} from 'node:module';
import {join} from 'node:path';

const require = createRequire(join(process.env.STRIPE_NODE_MODULES ?? import.meta.dirname, 'x.js'));
const Stripe = require('stripe');

const fake = process.env.STRIPE_FAKE_URL;
const key = fake ? 'sk_test_stripe_fake' : process.env.STRIPE_TEST_KEY;
const address = () => {
  const {hostname, port} = new URL(fake);
  return {protocol: 'http', host: hostname, port};
};
const options = fake ? address() : {};
const stripe = new Stripe(key, {...options, maxNetworkRetries: 2});
const customers = [];
const products = new Set();
let passed = 0;
let failed = 0;
let skipped = 0;

async function control(path, body = null) {
  const response = await fetch(`${fake}/_fake${path}`, {
    method: 'POST',
    headers: {'content-type': 'application/json'},
    body: JSON.stringify(body),
  });
  assert.ok(response.ok, `${path}: ${response.status}`);
  const text = await response.text();
  return text ? JSON.parse(text) : null;
}

function expect(actual, expected, what) {
  assert.deepEqual(actual, expected, what);
  passed += 1;
}

async function fails(call, type, members = {}) {
  let error;
  try {
    await call();
  } catch (caught) {
    error = caught;
  }
  expect(error?.type, type, `${type} is thrown`);
  for (const [name, value] of Object.entries(members)) {
    expect(error[name], value, `${name} of ${error.message}`);
  }
}

async function customer() {
  const created = await stripe.customers.create({
    email: 'node@example.com',
    payment_method: 'pm_card_visa',
    invoice_settings: {default_payment_method: 'pm_card_visa'},
    metadata: {tollgate: 'official'},
  });
  customers.push(created.id);
  return created;
}

async function price(cents) {
  const created = await stripe.prices.create({
    currency: 'usd',
    unit_amount: cents,
    recurring: {interval: 'month'},
    product_data: {name: `Plan ${cents}`},
  });
  products.add(created.product);
  return created;
}

const item = (of, cents, more = {}) =>
  stripe.invoiceItems.create({customer: of, amount: cents, currency: 'usd', ...more});
const ids = (list) => list.data.map(({id}) => id);

const checks = {
  async 'customers are created, changed and deleted'() {
    const created = await customer();
    expect(created.metadata, {tollgate: 'official'}, 'metadata');
    const updated = await stripe.customers.update(created.id, {name: 'B', metadata: {tollgate: '', x: 'y'}});
    expect([updated.name, updated.metadata], ['B', {x: 'y'}], 'an update');
    expect((await stripe.customers.retrieve(created.id)).name, 'B', 'a retrieval');
    expect((await stripe.customers.del(created.id)).deleted, true, 'a deletion');
    expect((await stripe.customers.retrieve(created.id)).deleted, true, 'a deleted customer');
    const missing = {statusCode: 404, code: 'resource_missing', param: 'id'};
    await fails(() => stripe.customers.update(created.id, {name: 'C'}), 'StripeInvalidRequestError', missing);
    const gone = {statusCode: 400, code: 'resource_missing', param: 'customer'};
    await fails(() => item(created.id, 100), 'StripeInvalidRequestError', gone);
  },

  async 'errors are of their classes'() {
    const wrong = new Stripe('sk_test_wrong', options);
    await fails(() => wrong.customers.list(), 'StripeAuthenticationError', {statusCode: 401});
    const unknown = {code: 'parameter_unknown', param: 'nickname'};
    await fails(() => stripe.customers.create({nickname: 'x'}), 'StripeInvalidRequestError', unknown);
    const {id} = await customer();
    const integer = {code: 'parameter_invalid_integer', param: 'amount'};
    await fails(() => item(id, 'ten'), 'StripeInvalidRequestError', integer);
    const required = {code: 'parameter_missing'};
    await fails(() => stripe.prices.create({unit_amount: 1}), 'StripeInvalidRequestError', required);
  },

  async 'prices belong to products'() {
    const created = await price(4900);
    expect([created.type, created.unit_amount, created.recurring.interval], ['recurring', 4900, 'month'], 'a price');
    expect(created.unit_amount_decimal.toString(), '4900', 'its decimal');
    const found = await stripe.prices.retrieve(created.id, {expand: ['product']});
    expect(found.product.name, 'Plan 4900', 'an expanded product');
    expect(ids(await stripe.prices.list({product: created.product})), [created.id], 'a list of prices');
    expect((await stripe.prices.update(created.id, {nickname: 'pro'})).nickname, 'pro', 'a changed price');
  },

  async 'checkout sessions'() {
    const [of, at] = [await customer(), await price(4900)];
    const session = await stripe.checkout.sessions.create({
      mode: 'subscription',
      customer: of.id,
      line_items: [{price: at.id, quantity: 1}],
      success_url: 'https://example.com/ok?session={CHECKOUT_SESSION_ID}',
      cancel_url: 'https://example.com/no',
      client_reference_id: 'c-1',
      subscription_data: {metadata: {plan: 'pro'}},
    });
    expect([session.status, session.payment_status, session.amount_total], ['open', 'unpaid', 4900], 'a session');
    const items = await stripe.checkout.sessions.listLineItems(session.id);
    expect(items.data[0].price.id, at.id, 'its line items');
    expect(ids(await stripe.checkout.sessions.list({customer: of.id})), [session.id], 'a list of sessions');
    if (fake) {
      const page = await fetch(session.url, {
        method: 'POST',
        body: new URLSearchParams({payment: 'paid'}),
        redirect: 'manual',
      });
      const url = `https://example.com/ok?session=${session.id}`;
      expect([page.status, page.headers.get('location')], [303, url], 'the page leads to the success URL');
      const expand = ['subscription', 'invoice'];
      const paid = await stripe.checkout.sessions.retrieve(session.id, {expand});
      expect([paid.status, paid.payment_status], ['complete', 'paid'], 'a paid session');
      expect([paid.subscription.status, paid.invoice.status], ['active', 'paid'], 'its subscription and invoice');
      expect(paid.subscription.metadata, {plan: 'pro'}, "the subscription's metadata");
      const portal = await stripe.billingPortal.sessions.create({customer: of.id});
      expect((await fetch(portal.url)).status, 200, 'the page of the portal');
    } else {
      expect((await stripe.checkout.sessions.expire(session.id)).status, 'expired', 'an expired session');
    }
  },

  async 'subscriptions are changed and canceled'() {
    const [of, basic, pro] = [await customer(), await price(3000), await price(6000)];
    const created = await stripe.subscriptions.create({
      customer: of.id,
      items: [{price: basic.id}],
      metadata: {plan: 'basic'},
      expand: ['latest_invoice'],
    });
    expect([created.status, created.latest_invoice.status], ['active', 'paid'], 'an active subscription');
    const {parent} = created.latest_invoice;
    expect(parent.subscription_details.subscription, created.id, 'the parent of its invoice');
    const [of_item] = created.items.data;
    expect(of_item.current_period_end > of_item.current_period_start, true, 'the period of its item');
    const change = {items: [{id: of_item.id, price: pro.id}]};
    const changed = await stripe.subscriptions.update(created.id, change);
    expect(changed.items.data[0].price.id, pro.id, 'a changed price');
    const ending = await stripe.subscriptions.update(created.id, {cancel_at_period_end: true});
    expect(ending.cancel_at_period_end, true, "a cancellation at the period's end");
    expect(ids(await stripe.subscriptions.list({customer: of.id})), [created.id], 'a list of subscriptions');
    expect((await stripe.subscriptions.cancel(created.id)).status, 'canceled', 'a canceled subscription');
    expect(ids(await stripe.subscriptions.list({customer: of.id})), [], 'a list without it');
    await fails(() => stripe.subscriptions.cancel(created.id), 'StripeInvalidRequestError', {statusCode: 404});
  },

  async 'items are listed and invoiced'() {
    const [of, at] = [await customer(), await price(3000)];
    const subscription = await stripe.subscriptions.create({customer: of.id, items: [{price: at.id}]});
    const period = {start: 1793491200, end: 1794700800};
    const more = {subscription: subscription.id, period, metadata: {charge: 'ch-1'}};
    const first = await item(of.id, 1250, {...more, description: '1,234 calls'});
    expect([first.amount, first.period, first.metadata], [1250, period, {charge: 'ch-1'}], 'an item');
    const credit = await item(of.id, -250, more);
    const since = {customer: of.id, pending: true, created: {gte: first.date}, limit: 100};
    expect(ids(await stripe.invoiceItems.list(since)), [credit.id, first.id], 'newest first');
    const invoice = await stripe.invoices.create({customer: of.id, subscription: subscription.id});
    expect([invoice.status, invoice.total], ['draft', 1000], 'a draft');
    const finalized = await stripe.invoices.finalizeInvoice(invoice.id);
    expect([finalized.status, typeof finalized.number], ['open', 'string'], 'an open invoice');
    const paid = await stripe.invoices.pay(invoice.id);
    expect([paid.status, paid.amount_paid], ['paid', 1000], 'a paid invoice');
    const lines = await stripe.invoices.listLineItems(invoice.id);
    expect(lines.data.length, 2, 'its lines');
    await fails(() => stripe.invoiceItems.del(first.id), 'StripeInvalidRequestError', {statusCode: 400});
    const paidOnes = await stripe.invoices.list({customer: of.id, subscription: subscription.id, status: 'paid'});
    expect(ids(paidOnes).includes(invoice.id), true, 'a list of paid invoices');
  },

  async 'requests with a key are executed once'() {
    const {id} = await customer();
    const once = {idempotencyKey: `official-${randomUUID()}`};
    const create = (cents) => stripe.invoiceItems.create({customer: id, amount: cents, currency: 'usd'}, once);
    const [first, again] = [await create(100), await create(100)];
    expect(again.id, first.id, 'the same item');
    expect(again.lastResponse.headers['idempotent-replayed'], 'true', 'the header of a replay');
    await fails(() => create(200), 'StripeIdempotencyError', {statusCode: 400});
    expect((await stripe.invoiceItems.list({customer: id})).data.length, 1, 'one item');
  },

  async 'lists are paged'() {
    const {id} = await customer();
    const created = [];
    for (let cents = 1; cents <= 7; cents += 1) created.unshift((await item(id, cents)).id);
    const all = [];
    for await (const {id: of_item} of stripe.invoiceItems.list({customer: id, limit: 3})) all.push(of_item);
    expect(all, created, 'all pages');
    const before = {customer: id, limit: 3, ending_before: created[6]};
    expect(ids(await stripe.invoiceItems.list(before)), created.slice(3, 6), 'a page before');
  },
};

// These need the stand-in's clock, faults or webhooks.
const fakeChecks = {
  async 'webhooks are verified'() {
    const create = {url: 'http://127.0.0.1:9', enabled_events: ['customer.created']};
    const endpoint = await stripe.webhookEndpoints.create(create);
    await control('/webhooks/take');
    const created = await customer();
    const own = ({endpoint: of}) => of === endpoint.id;
    const [{body, signature}] = (await control('/webhooks/take')).filter(own);
    const timestamp = Number(signature.match(/t=(\d+)/)[1]);
    const {secret} = endpoint;
    const verify = (payload, header, by) => stripe.webhooks.constructEvent(payload, header, by, 0);
    const event = verify(body, signature, secret);
    expect([event.type, event.data.object.id], ['customer.created', created.id], 'a verified event');
    const theirs = stripe.webhooks.generateTestHeaderString({payload: body, secret, timestamp});
    expect(signature, theirs, "the library's own signature");
    for (const [payload, by] of [[`${body} `, secret], [body, 'whsec_other']]) {
      await fails(async () => verify(payload, signature, by), 'StripeSignatureVerificationError');
    }
    await stripe.webhookEndpoints.del(endpoint.id);
  },

  async 'lost responses are retried by the library'() {
    const {id} = await customer();
    const path = '/v1/invoiceitems';
    for (const kind of ['request_lost', 'response_lost', 'server_error', 'key_in_use', 'malformed']) {
      const {data: before} = await stripe.invoiceItems.list({customer: id});
      await control('/faults', {method: 'POST', path, fault: {kind}});
      if (kind === 'malformed') {
        await fails(() => item(id, 100), 'StripeAPIError');
      } else {
        await item(id, 100);
      }
      const {data: after} = await stripe.invoiceItems.list({customer: id});
      expect(after.length, before.length + 1, `one item after ${kind}`);
    }
    await control('/faults', {method: 'POST', path, fault: {kind: 'stored_server_error', executes: true}});
    await fails(() => item(id, 100), 'StripeAPIError', {statusCode: 500});
  },

  async 'renewals draw pending items'() {
    const [of, at] = [await customer(), await price(3000)];
    const subscription = await stripe.subscriptions.create({customer: of.id, items: [{price: at.id}]});
    await item(of.id, 1250, {subscription: subscription.id});
    const [{current_period_end: end}] = subscription.items.data;
    const latest = async () => {
      const found = await stripe.subscriptions.retrieve(subscription.id, {expand: ['latest_invoice']});
      return found.latest_invoice;
    };
    await control('/clock', {to: end});
    expect([(await latest()).status, (await latest()).total], ['draft', 4250], 'a draft');
    await control('/clock', {to: end + 3600});
    expect((await latest()).status, 'paid', 'it is paid');
  },
};

async function run(name, check) {
  const began = performance.now();
  try {
    await check();
    console.log(`  ok      ${name} (${((performance.now() - began) / 1000).toFixed(1)} s)`);
  } catch (error) {
    failed += 1;
    console.log(`  failed  ${name}`, error);
  }
}

for (const [name, check] of Object.entries(checks)) await run(name, check);
if (fake) {
  for (const [name, check] of Object.entries(fakeChecks)) await run(name, check);
} else {
  skipped = Object.keys(fakeChecks).length;
  for (const of of customers) await stripe.customers.del(of).catch(() => {});
  for (const product of products) await stripe.products.update(product, {active: false});
}
console.log(`node: ${passed} passed, ${failed} failed, ${skipped} skipped`);
process.exit(failed > 0 ? 1 : 0);
