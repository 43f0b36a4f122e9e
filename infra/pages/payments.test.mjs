// Checkout and billing portal as a customer sees them, and the plan that follows.

import assert from 'node:assert/strict';
import {before} from 'node:test';

import {advance, assertFits, atStripe, createPlan, returnUrl, story} from './product.mjs';

const INCLUDED = 5;
/** Longer than a period, and the hour after which the invoice of a renewal is paid. */
const PERIOD_S = 32 * 86_400;

before(async () => {
  await createPlan('pro', 'Pro', 4_900);
  await createPlan('team', 'Team', 9_900);
});

const pay = page => page.getByRole('button', {name: 'Pay by card', exact: true});
const shows = (page, text) => page.getByText(text).waitFor();
const warns = (page, text) => page.getByRole('alert').getByText(text).waitFor();

story('a customer without calls left buys a plan, and may call', async customer => {
  for (let calls = 0; calls < INCLUDED; calls += 1) await customer.call(200);
  await customer.call(429);

  const page = await customer.open(await customer.startCheckout('pro'));
  await page.getByRole('heading', {name: 'Checkout'}).waitFor();
  await shows(page, '1 × Pro: 49.00 USD a month');
  await shows(page, 'Total 49.00 USD');
  await assertFits(page);
  await pay(page).click();
  await page.waitForURL(returnUrl('paid'));

  await customer.assertPlan('pro');
  await customer.call(200);
});

story('a customer cancels a checkout, and pays on its page later', async customer => {
  const url = await customer.startCheckout('pro');
  const page = await customer.open(url);
  await page.getByRole('link', {name: 'Cancel'}).click();
  await page.waitForURL(returnUrl('cancelled'));
  await customer.assertPlan('free');

  await page.goto(url);
  await pay(page).click();
  await page.waitForURL(returnUrl('paid'));
  await customer.assertPlan('pro');
});

story('the page of an earlier checkout takes no payment', async customer => {
  const earlier = await customer.startCheckout('pro');
  const page = await customer.open(earlier);
  const later = await customer.startCheckout('team');
  const says = 'This checkout has expired. It takes no payment.';

  await pay(page).click();
  await warns(page, says);
  await assertFits(page);
  customer.expectStatus(400);
  await page.goto(earlier);
  await warns(page, says);
  customer.expectStatus(400);
  assert.equal(await pay(page).count(), 0);
  await customer.assertPlan('free');
  await page.getByRole('link', {name: 'Return'}).click();
  await page.waitForURL(returnUrl('cancelled'));

  await page.goto(later);
  await pay(page).click();
  await page.waitForURL(returnUrl('paid'));
  await customer.assertPlan('team');
});

story('a customer whose card is declined pays by another one', async customer => {
  const page = await customer.open(await customer.startCheckout('pro'));
  await page.getByRole('button', {name: 'Pay by a card that is declined'}).click();
  await warns(page, 'Your card was declined.');
  await customer.assertPlan('free');
  assert.deepEqual(await customer.listAtStripe('subscriptions'), []);

  await pay(page).click();
  await page.waitForURL(returnUrl('paid'));
  await customer.assertPlan('pro');
});

story('a customer who pays in two tabs at once has one subscription', async customer => {
  const url = await customer.startCheckout('pro');
  const tabs = [await customer.open(url), await customer.open(url)];
  await Promise.all(tabs.map(page => pay(page).click()));
  const isBack = page => page.url() === returnUrl('paid');
  const settled = page => Promise.race([
    page.waitForURL(returnUrl('paid')),
    warns(page, 'This checkout is complete. It takes no payment.'),
  ]);
  await Promise.all(tabs.map(settled));
  const [other, ...more] = tabs.filter(page => !isBack(page));
  assert(other && more.length === 0, `the tabs are at ${tabs.map(page => page.url())}`);
  customer.expectStatus(400);
  await other.getByRole('link', {name: 'Return'}).click();
  await other.waitForURL(returnUrl('paid'));

  await customer.assertPlan('pro');
  assert.equal((await customer.listAtStripe('subscriptions')).length, 1);
  assert.equal((await customer.listAtStripe('invoices')).length, 1);
});

story('a customer changes the plan in the portal, and sees the invoices', async customer => {
  await customer.buy('pro');
  await customer.assertPlan('pro');
  const page = await customer.openPortal();
  await page.getByRole('heading', {name: 'Pro'}).waitFor();
  await page.getByLabel('Plan').selectOption({label: 'Team: 99.00 USD a month'});
  await page.getByRole('button', {name: 'Change plan'}).click();
  await page.getByRole('heading', {name: 'Team'}).waitFor();
  await assertFits(page);
  await customer.assertPlan('team');
  assert.equal((await customer.listAtStripe('subscriptions')).length, 1);

  const invoices = (await customer.manage('GET', 'invoices')).data;
  assert.equal(invoices.length, 1);
  const listed = page.getByRole('listitem').filter({hasText: invoices[0].number});
  assert.equal(await listed.innerText(), `${invoices[0].number} 49.00 USD paid`);
  await listed.getByRole('link').click();
  await page.getByRole('heading', {name: `Invoice ${invoices[0].number}`}).waitFor();
  await page.getByRole('row', {name: /^1 × Pro .* 49\.00 USD$/}).waitFor();
  await shows(page, 'Total 49.00 USD, due 0.00 USD');
  await assertFits(page);
  await page.goBack();
  await page.getByRole('link', {name: 'Return'}).click();
  await page.waitForURL(returnUrl('managed'));
});

story('a customer who cancels at the end of the period keeps the plan until then', async customer => {
  await customer.buy('pro');
  const page = await customer.openPortal();
  const cancel = page.getByRole('button', {name: 'Cancel at the end of the period'});
  await cancel.click();
  await shows(page, 'when it ends');
  await customer.assertPlan('pro');
  assert.equal((await customer.subscription()).subscription.cancel_at_period_end, true);
  await page.getByRole('button', {name: 'Do not cancel'}).click();
  await cancel.click();
  await shows(page, 'when it ends');

  await advance(PERIOD_S);
  await customer.assertPlan('free');
  assert.equal((await customer.subscription()).subscription, null);
  await page.reload();
  assert.equal(await cancel.or(page.getByRole('button', {name: 'Do not cancel'})).count(), 0);
});

story('a customer who cancels at once loses the plan, and can buy one again', async customer => {
  await customer.buy('pro');
  const page = await customer.openPortal();
  await page.getByRole('button', {name: 'Cancel at once'}).click();
  await page.getByRole('heading', {name: 'Pro'}).waitFor({state: 'detached'});
  await customer.assertPlan('free');

  await customer.buy('team');
  await customer.assertPlan('team');
});

story('a customer whose renewal was declined changes the card, and pays the invoice', async customer => {
  await customer.buy('pro');
  await customer.assertPlan('pro');
  const control = `/_fake/customers/${await customer.stripeCustomer()}/payments`;
  await atStripe('POST', control, {body: {declined: true}});
  await advance(PERIOD_S);
  assert.notEqual((await customer.subscription()).unpaid_since, null);

  const page = await customer.openPortal();
  await shows(page, 'Status past_due');
  await shows(page, 'Payments are declined.');
  await page.getByRole('button', {name: 'Add a card that is accepted'}).click();
  await shows(page, 'Payments are accepted.');
  await page.getByRole('listitem').filter({hasText: 'open'}).getByRole('link').click();
  await page.getByRole('button', {name: 'Pay by a card that is declined'}).click();
  await warns(page, 'Your card was declined.');
  await page.getByRole('button', {name: 'Pay', exact: true}).click();
  await shows(page, 'Status paid');

  const {plan, unpaid_since: unpaid} = await customer.subscription();
  assert.deepEqual([plan.id, unpaid], ['pro', null]);
});
