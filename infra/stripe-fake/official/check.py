"""Calls the stand-in for Stripe with the official Python library.

    infra/stripe-fake/official/run                            against the stand-in, with the Node library too
    STRIPE_TEST_KEY=sk_test_… infra/stripe-fake/official/run  against Stripe's test mode

In test mode, what needs the stand-in's clock, faults or webhooks is skipped. The customers that it creates there
are deleted, with their subscriptions; products and prices cannot be deleted, and are deactivated.

Without `run`: STRIPE_FAKE_URL, or STRIPE_TEST_KEY, has to be set, and the packages of requirements.txt installed.
"""

import json
import os
import sys
import time
import traceback
import urllib.request
import uuid

import stripe

FAKE = os.environ.get("STRIPE_FAKE_URL")
KEY = "sk_test_stripe_fake" if FAKE else os.environ["STRIPE_TEST_KEY"]
ADDRESSES = {"api": FAKE} if FAKE else {}
client = stripe.StripeClient(KEY, base_addresses=ADDRESSES, max_network_retries=2).v1
passed = failed = skipped = 0
customers, products = [], []


def control(path, body=None):
    request = urllib.request.Request(
        f"{FAKE}/_fake{path}", json.dumps(body).encode(), {"content-type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request) as response:
        return json.loads(response.read() or "null")


def expect(condition, what):
    global passed
    if not condition:
        raise AssertionError(what)
    passed += 1


def fails(call, kind, **members):
    """Expects that a call raises an error of a kind with these members."""
    try:
        call()
    except kind as error:
        for name, value in members.items():
            expect(getattr(error, name) == value, f"{name} of {error!r} is {value!r}")
        return
    raise AssertionError(f"{kind.__name__} is raised")


def customer():
    created = client.customers.create(
        {
            "email": "python@example.com",
            "payment_method": "pm_card_visa",
            "invoice_settings": {"default_payment_method": "pm_card_visa"},
            "metadata": {"tollgate": "official"},
        }
    )
    customers.append(created.id)
    return created


def price(cents):
    created = client.prices.create(
        {
            "currency": "usd",
            "unit_amount": cents,
            "recurring": {"interval": "month"},
            "product_data": {"name": f"Plan {cents}"},
        }
    )
    products.append(created.product)
    return created


def item(of, cents, **more):
    return client.invoice_items.create({"customer": of, "amount": cents, "currency": "usd", **more})


def customers_are_created_changed_and_deleted():
    created = customer()
    expect(created.metadata["tollgate"] == "official", "metadata")
    updated = client.customers.update(created.id, {"name": "B", "metadata": {"tollgate": "", "x": "y"}})
    expect(updated.name == "B" and updated.metadata.to_dict() == {"x": "y"}, "an update")
    expect(client.customers.retrieve(created.id).name == "B", "a retrieval")
    expect(client.customers.delete(created.id).deleted is True, "a deletion")
    expect(client.customers.retrieve(created.id).deleted is True, "a deleted customer")
    missing = {"http_status": 404, "code": "resource_missing", "param": "id"}
    fails(lambda: client.customers.update(created.id, {"name": "C"}), stripe.InvalidRequestError, **missing)
    gone = {"http_status": 400, "code": "resource_missing", "param": "customer"}
    fails(lambda: item(created.id, 100), stripe.InvalidRequestError, **gone)


def errors_are_of_their_classes():
    wrong = stripe.StripeClient("sk_test_wrong", base_addresses=ADDRESSES).v1
    fails(lambda: wrong.customers.list(), stripe.AuthenticationError, http_status=401)
    unknown = {"code": "parameter_unknown", "param": "nickname"}
    fails(lambda: client.customers.create({"nickname": "x"}), stripe.InvalidRequestError, **unknown)
    wrong_type = {"code": "parameter_invalid_integer", "param": "amount"}
    of = customer().id
    fails(lambda: item(of, "ten"), stripe.InvalidRequestError, **wrong_type)
    fails(lambda: client.prices.create({"unit_amount": 1}), stripe.InvalidRequestError, code="parameter_missing")


def prices_belong_to_products():
    created = price(4900)
    expect((created.type, created.unit_amount, created.recurring.interval) == ("recurring", 4900, "month"), "a price")
    found = client.prices.retrieve(created.id, {"expand": ["product"]})
    expect(found.product.name == "Plan 4900", "an expanded product")
    listed = client.prices.list({"product": created.product})
    expect([price.id for price in listed.data] == [created.id], "a list of prices")
    changed = client.prices.update(created.id, {"nickname": "pro"})
    expect(changed.nickname == "pro", "a changed price")


def checkout_sessions():
    of, at = customer(), price(4900)
    session = client.checkout.sessions.create(
        {
            "mode": "subscription",
            "customer": of.id,
            "line_items": [{"price": at.id, "quantity": 1}],
            "success_url": "https://example.com/ok?session={CHECKOUT_SESSION_ID}",
            "cancel_url": "https://example.com/no",
            "client_reference_id": "c-1",
            "subscription_data": {"metadata": {"plan": "pro"}},
        }
    )
    expect((session.status, session.payment_status, session.mode) == ("open", "unpaid", "subscription"), "a session")
    expect(session.amount_total == 4900 and session.url.startswith("http"), "its total and URL")
    items = client.checkout.sessions.line_items.list(session.id)
    expect(items.data[0].price.id == at.id, "its line items")
    listed = client.checkout.sessions.list({"customer": of.id})
    expect([session.id for session in listed.data] == [session.id], "a list of sessions")
    expect(client.checkout.sessions.expire(session.id).status == "expired", "an expired session")
    missing = {"mode": "subscription", "success_url": "https://example.com"}
    fails(lambda: client.checkout.sessions.create(missing), stripe.InvalidRequestError, http_status=400)
    portal = lambda: client.billing_portal.sessions.create({"customer": of.id, "return_url": "https://example.com"})
    # Stripe's test mode has to have its portal configured.
    if FAKE:
        expect(portal().url.startswith(FAKE), "a portal session")


def subscriptions_are_changed_and_canceled():
    of, basic, pro = customer(), price(3000), price(6000)
    created = client.subscriptions.create(
        {
            "customer": of.id,
            "items": [{"price": basic.id}],
            "metadata": {"plan": "basic"},
            "expand": ["latest_invoice"],
        }
    )
    expect(created.status == "active" and created.latest_invoice.status == "paid", "an active subscription")
    expect(created.latest_invoice.billing_reason == "subscription_create", "the reason of its invoice")
    expect(created.latest_invoice.parent.subscription_details.subscription == created.id, "the parent of its invoice")
    of_item = created["items"].data[0]
    expect(of_item.current_period_end > of_item.current_period_start, "the period of its item")
    changed = client.subscriptions.update(
        created.id, {"items": [{"id": of_item.id, "price": pro.id}], "proration_behavior": "create_prorations"}
    )
    expect(changed["items"].data[0].price.id == pro.id, "a changed price")
    pending = client.invoice_items.list({"customer": of.id, "pending": True})
    expect(pending.data and all(item.proration for item in pending.data), "its prorations")
    ending = client.subscriptions.update(created.id, {"cancel_at_period_end": True})
    expect(ending.cancel_at_period_end and ending.cancel_at, "a cancellation at the period's end")
    kept = client.subscriptions.update(created.id, {"cancel_at_period_end": False})
    expect(kept.cancel_at is None, "no cancellation")
    listed = client.subscriptions.list({"customer": of.id})
    expect([subscription.id for subscription in listed.data] == [created.id], "a list of subscriptions")
    canceled = client.subscriptions.cancel(created.id)
    expect(canceled.status == "canceled" and canceled.ended_at, "a canceled subscription")
    expect(not client.subscriptions.list({"customer": of.id}).data, "a list without it")
    metadata = client.subscriptions.update(created.id, {"metadata": {"a": "b"}}).metadata
    expect(metadata["a"] == "b", "its metadata can be changed")
    fails(lambda: item(of.id, 1, subscription=created.id), stripe.InvalidRequestError, http_status=400)


def items_are_listed_and_invoiced():
    of, at = customer(), price(3000)
    subscription = client.subscriptions.create({"customer": of.id, "items": [{"price": at.id}]})
    period = {"start": 1793491200, "end": 1794700800}
    more = {"subscription": subscription.id, "period": period, "metadata": {"charge": "ch-1"}}
    first = item(of.id, 1250, description="1,234 calls", **more)
    expect((first.amount, first.period.start, first.period.end) == (1250, *period.values()), "an item")
    expect(first.parent.subscription_details.subscription == subscription.id, "its subscription")
    expect(first.metadata["charge"] == "ch-1" and first.invoice is None, "its metadata")
    credit = item(of.id, -250, **more)
    expect(credit.amount == -250, "a credit")
    since = {"customer": of.id, "pending": True, "created": {"gte": first.date}, "limit": 100}
    expect([item.id for item in client.invoice_items.list(since).data] == [credit.id, first.id], "newest first")
    later = since | {"created": {"gt": credit.date + 60}}
    expect(not client.invoice_items.list(later).data, "none later")
    of_subscription = {"customer": of.id, "subscription": subscription.id}
    fails(lambda: client.invoices.create({"customer": "cus_none"}), stripe.InvalidRequestError, param="customer")
    excluded = client.invoices.create({"customer": of.id, "pending_invoice_items_behavior": "exclude"})
    expect(excluded.total == 0 and excluded.status == "draft", "an invoice without pending items")
    both = of_subscription | {"pending_invoice_items_behavior": "include"}
    fails(lambda: client.invoices.create(both), stripe.InvalidRequestError, param="pending_invoice_items_behavior")
    invoice = client.invoices.create(of_subscription)
    expect((invoice.status, invoice.total, invoice.number) == ("draft", 1000, None), "a draft")
    lines = client.invoices.line_items.list(invoice.id)
    parents = {line.parent.invoice_item_details.invoice_item for line in lines.data}
    expect(parents == {first.id, credit.id}, "its lines")
    finalized = client.invoices.finalize_invoice(invoice.id)
    expect(finalized.status == "open" and finalized.number and finalized.hosted_invoice_url, "an open invoice")
    paid = client.invoices.pay(invoice.id)
    expect((paid.status, paid.amount_paid, paid.amount_remaining) == ("paid", 1000, 0), "a paid invoice")
    fails(lambda: client.invoices.pay(invoice.id), stripe.InvalidRequestError, http_status=400)
    fails(lambda: client.invoice_items.delete(first.id), stripe.InvalidRequestError, http_status=400)
    other = item(of.id, 100)
    expect(client.invoice_items.delete(other.id).deleted is True, "a deleted item")
    listed = client.invoices.list({"customer": of.id, "status": "paid"})
    expect(invoice.id in [invoice.id for invoice in listed.data], "a list of paid invoices")
    voided = client.invoices.create({"customer": of.id})
    item(of.id, 700, invoice=voided.id)
    client.invoices.finalize_invoice(voided.id)
    expect(client.invoices.void_invoice(voided.id).status == "void", "a voided invoice")


def declined_cards_raise_card_errors():
    of = customer()
    card = client.payment_methods.attach("pm_card_chargeCustomerFail", {"customer": of.id})
    invoice = client.invoices.create({"customer": of.id})
    item(of.id, 1000, invoice=invoice.id)
    client.invoices.finalize_invoice(invoice.id)
    pay = lambda: client.invoices.pay(invoice.id, {"payment_method": card.id})
    fails(pay, stripe.CardError, http_status=402, code="card_declined")
    expect(client.invoices.pay(invoice.id).status == "paid", "paid by the other card")


def requests_with_a_key_are_executed_once():
    of = customer()
    options = {"idempotency_key": f"official-{uuid.uuid4()}"}
    create = lambda cents: client.invoice_items.create(
        {"customer": of.id, "amount": cents, "currency": "usd"}, options
    )
    first, again = create(100), create(100)
    expect(first.id == again.id, "the same item")
    expect(again.last_response.headers.get("idempotent-replayed") == "true", "the header of a replay")
    fails(lambda: create(200), stripe.IdempotencyError, http_status=400)
    expect(len(client.invoice_items.list({"customer": of.id}).data) == 1, "one item")


def lists_are_paged():
    of = customer()
    created = [item(of.id, cents).id for cents in range(1, 8)]
    newest = created[::-1]
    pages = client.invoice_items.list({"customer": of.id, "limit": 3})
    expect(pages.has_more and [item.id for item in pages.data] == newest[:3], "a first page")
    expect([item.id for item in pages.auto_paging_iter()] == newest, "all pages")
    before = client.invoice_items.list({"customer": of.id, "limit": 3, "ending_before": newest[-1]})
    expect([item.id for item in before.data] == newest[3:6], "a page before")
    types = [event.type for event in client.events.list({"type": "invoiceitem.created", "limit": 5}).data]
    expect(types and set(types) == {"invoiceitem.created"}, "a list of events")


def renewals_draw_pending_items():
    of, at = customer(), price(3000)
    subscription = client.subscriptions.create({"customer": of.id, "items": [{"price": at.id}]})
    pending = item(of.id, 1250, subscription=subscription.id)
    end = subscription["items"].data[0].current_period_end
    control("/clock", {"to": end})
    latest = lambda: client.subscriptions.retrieve(subscription.id, {"expand": ["latest_invoice"]}).latest_invoice
    expect((latest().status, latest().total) == ("draft", 4250), "a draft")
    expect(client.invoice_items.retrieve(pending.id).invoice == latest().id, "the item is on it")
    control("/clock", {"to": end + 3600})
    expect((latest().status, latest().billing_reason) == ("paid", "subscription_cycle"), "it is paid")


def lost_responses_are_retried_by_the_library():
    of = customer()
    path = "/v1/invoiceitems"
    for fault in (
        {"kind": "request_lost"},
        {"kind": "response_lost"},
        {"kind": "rate_limited", "retry_after": None},
        {"kind": "server_error"},
        {"kind": "key_in_use"},
    ):
        retry = True if fault["kind"] == "rate_limited" else None
        control("/faults", {"method": "POST", "path": path, "fault": fault, "should_retry": retry})
        before = len(client.invoice_items.list({"customer": of.id}).data)
        created = item(of.id, 100)
        after = client.invoice_items.list({"customer": of.id}).data
        expect(after[0].id == created.id and len(after) == before + 1, f"one item after {fault['kind']}")
    fault = {"kind": "stored_server_error", "executes": False}
    control("/faults", {"method": "POST", "path": path, "fault": fault})
    fails(lambda: item(of.id, 100), stripe.APIError, http_status=500)


def webhooks_are_verified():
    endpoint = client.webhook_endpoints.create({"url": "http://127.0.0.1:9", "enabled_events": ["customer.created"]})
    control("/webhooks/take")
    created = customer()
    # The other library may have endpoints of its own.
    taken = [taken for taken in control("/webhooks/take") if taken["endpoint"] == endpoint.id]
    expect(len(taken) == 1, "one event")
    body, signature = taken[0]["body"], taken[0]["signature"]
    event = stripe.Webhook.construct_event(body, signature, endpoint.secret, tolerance=None)
    expect((event.type, event.data.object.id) == ("customer.created", created.id), "a verified event")
    expect(event.api_version == stripe.api_version, "its API version")
    invalid = stripe.SignatureVerificationError
    verify = lambda body, secret, tolerance: stripe.Webhook.construct_event(body, signature, secret, tolerance=tolerance)
    fails(lambda: verify(body + " ", endpoint.secret, None), invalid)
    fails(lambda: verify(body, "whsec_other", None), invalid)
    control(f"/webhooks/{endpoint.id}/secrets", {"secrets": ["whsec_old", "whsec_new"]})
    customer()
    taken = [taken for taken in control("/webhooks/take") if taken["endpoint"] == endpoint.id][0]
    for secret in ("whsec_old", "whsec_new"):
        event = stripe.Webhook.construct_event(taken["body"], taken["signature"], secret, tolerance=None)
        expect(event.type == "customer.created", "both secrets while they are rolled")
    expect(client.webhook_endpoints.delete(endpoint.id).deleted is True, "a deleted endpoint")


CHECKS = [
    customers_are_created_changed_and_deleted,
    errors_are_of_their_classes,
    prices_belong_to_products,
    checkout_sessions,
    subscriptions_are_changed_and_canceled,
    items_are_listed_and_invoiced,
    declined_cards_raise_card_errors,
    requests_with_a_key_are_executed_once,
    lists_are_paged,
]
# These need the stand-in's clock, faults or webhooks.
FAKE_CHECKS = [
    webhooks_are_verified,
    lost_responses_are_retried_by_the_library,
    renewals_draw_pending_items,
]


def clean_up():
    for of in customers:
        try:
            client.customers.delete(of)
        except stripe.InvalidRequestError:
            pass
    for product in set(products):
        client.products.update(product, {"active": False})


for check in CHECKS + FAKE_CHECKS:
    if check in FAKE_CHECKS and not FAKE:
        skipped += 1
        continue
    began = time.monotonic()
    try:
        check()
        print(f"  ok      {check.__name__} ({time.monotonic() - began:.1f} s)")
    except Exception:
        failed += 1
        print(f"  failed  {check.__name__}")
        traceback.print_exc(file=sys.stdout)
if not FAKE:
    clean_up()
print(f"python: {passed} passed, {failed} failed, {skipped} skipped")
sys.exit(failed > 0)
