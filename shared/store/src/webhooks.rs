//! Webhooks, and their secrets in items of their own, so that few may read them.

use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::AttributeValue;
use jiff::Timestamp;
use tollgate_domain::id::WebhookId;
use tollgate_domain::webhook::{DeliveryFailure, MAX_WEBHOOKS, TargetUrl, Webhook, WebhookSecret};

use crate::Store;
use crate::error::StoreError;
use crate::events::ALONE;
use crate::item::{Item, Reader, keys, n, s, t};
use crate::schema::{EVENTS, attr};
use crate::transaction::{Action, Transacted};

/// Outcome of creating a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CreateWebhookOutcome {
    /// Created by this call.
    Created,
    /// Not created: there are as many as there may be.
    TooMany,
}

/// Partition of the webhooks. The item with their number sorts before them.
const WEBHOOK: &str = "WEBHOOK";
const KIND: &str = "webhook";
const DISABLED_AT: &str = "disabled_at";
const FAILED_EVENT: &str = "failed_event";

fn webhook_key(id: &WebhookId) -> Item {
    keys(WEBHOOK, id.as_str())
}

fn secret_key(id: &WebhookId) -> Item {
    keys(format!("SECRET#{id}"), ALONE)
}

fn webhook_item(webhook: &Webhook) -> Item {
    let mut item = webhook_key(&webhook.id);
    item.insert("url".into(), s(webhook.url.as_str()));
    let kinds: Vec<&str> = webhook.kinds.iter().map(|kind| kind.as_str()).collect();
    item.insert("kinds".into(), s(kinds.join(" ")));
    item.insert("created_at".into(), t(webhook.created_at));
    item
}

fn read_webhook(item: &Item) -> Result<Webhook, StoreError> {
    let item = Reader::new(KIND, item);
    let kinds = item.text("kinds")?.split_whitespace();
    let kinds = kinds.map(|kind| kind.parse().map_err(|_| item.corrupt("kinds")));
    let failure = match item.opt_number(FAILED_EVENT)? {
        None => None,
        Some(event) => Some(DeliveryFailure {
            event,
            at: item.parsed("failed_at")?,
            reason: item.text("failure_reason")?.to_owned(),
        }),
    };
    Ok(Webhook {
        id: item.parsed(attr::SK)?,
        url: TargetUrl::stored(item.text("url")?),
        kinds: kinds.collect::<Result<_, _>>()?,
        created_at: item.parsed("created_at")?,
        disabled_at: item.opt_parsed(DISABLED_AT)?,
        failure,
    })
}

impl Store {
    /// Creates a webhook, whose id is random, with its secret.
    ///
    /// # Errors
    /// When the store fails; the webhook may then exist.
    pub async fn create_webhook(
        &self,
        webhook: &Webhook,
        secret: &WebhookSecret,
    ) -> Result<CreateWebhookOutcome, StoreError> {
        let write_id = self.transaction_token();
        let mut item = webhook_item(webhook);
        item.insert(attr::WRITTEN_BY.into(), s(&write_id));
        // Absent: a webhook does not replace another.
        let put = Action::put(EVENTS, item).when("attribute_not_exists(pk)");
        let count = Action::update(EVENTS, keys(WEBHOOK, ALONE), "ADD webhooks :one")
            // Absent, or fewer than there may be: every event is sent to each.
            .when("attribute_not_exists(webhooks) OR webhooks < :max")
            .value(":one", n(1))
            .value(":max", n(MAX_WEBHOOKS));
        let mut item = secret_key(&webhook.id);
        item.insert("secret".into(), s(secret.expose()));
        // Absent: as the webhook.
        let secret = Action::put(EVENTS, item).when("attribute_not_exists(pk)");
        let outcome = self.transact("creating a webhook", vec![put, count, secret]);
        match outcome.await? {
            Transacted::Committed => Ok(CreateWebhookOutcome::Created),
            Transacted::Cancelled(results) => match results[0].item() {
                // By this very call: its first try took effect, and the response was lost.
                Some(stored) if Reader::new(KIND, stored).is_written_by(&write_id)? => {
                    Ok(CreateWebhookOutcome::Created)
                }
                Some(_) => Err(StoreError::corrupt(KIND, attr::SK)),
                None => Ok(CreateWebhookOutcome::TooMany),
            },
        }
    }

    /// Lists all webhooks.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn webhooks(&self) -> Result<Vec<Webhook>, StoreError> {
        let found = self.query_all(
            "listing webhooks",
            EVENTS,
            "pk = :pk AND sk > :count",
            [(":pk", s(WEBHOOK)), (":count", s(ALONE))],
        );
        found.await?.iter().map(read_webhook).collect()
    }

    /// Reads a webhook consistently.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn webhook(&self, id: &WebhookId) -> Result<Option<Webhook>, StoreError> {
        let item = self
            .events_item(webhook_key(id), "reading a webhook")
            .await?;
        item.as_ref().map(read_webhook).transpose()
    }

    /// Reads the secret of a webhook consistently.
    ///
    /// # Errors
    /// When the store fails.
    pub async fn webhook_secret(
        &self,
        id: &WebhookId,
    ) -> Result<Option<WebhookSecret>, StoreError> {
        let item = self.events_item(secret_key(id), "reading a secret").await?;
        let secret = item.map(|item| {
            Reader::new("secret", &item)
                .text("secret")
                .map(WebhookSecret::new)
        });
        secret.transpose()
    }

    /// Deletes a webhook with its secret. Returns `false` if there is none with this id.
    ///
    /// # Errors
    /// When the store fails; the webhook may then be deleted.
    pub async fn delete_webhook(&self, id: &WebhookId) -> Result<bool, StoreError> {
        // Exists: a webhook is counted down once.
        let webhook = Action::delete(EVENTS, webhook_key(id)).when("attribute_exists(pk)");
        let count = Action::update(EVENTS, keys(WEBHOOK, ALONE), "ADD webhooks :less")
            .value(":less", crate::item::signed(-1));
        let secret = Action::delete(EVENTS, secret_key(id));
        let outcome = self.transact("deleting a webhook", vec![webhook, count, secret]);
        Ok(matches!(outcome.await?, Transacted::Committed))
    }

    /// Records that the target of a webhook is gone, so that nothing is sent to it any more. Idempotent.
    ///
    /// # Errors
    /// When the store fails; that may then be recorded.
    pub async fn disable_webhook(&self, id: &WebhookId, now: Timestamp) -> Result<(), StoreError> {
        let expression = "SET disabled_at = if_not_exists(disabled_at, :now)";
        self.update_webhook(id, expression, [(":now", t(now))])
            .await
    }

    /// Records that a delivery was given up.
    ///
    /// # Errors
    /// When the store fails; that may then be recorded.
    pub async fn record_delivery_failure(
        &self,
        id: &WebhookId,
        failure: &DeliveryFailure,
    ) -> Result<(), StoreError> {
        let expression = "SET failed_event = :event, failed_at = :at, failure_reason = :reason";
        let values = [
            (":event", n(failure.event)),
            (":at", t(failure.at)),
            (":reason", s(&failure.reason)),
        ];
        self.update_webhook(id, expression, values).await
    }

    /// Updates a webhook unless it was deleted.
    async fn update_webhook<const N: usize>(
        &self,
        id: &WebhookId,
        expression: &str,
        values: [(&str, AttributeValue); N],
    ) -> Result<(), StoreError> {
        let values = values.map(|(name, value)| (name.to_owned(), value));
        let update = self
            .client
            .update_item()
            .table_name(self.table(EVENTS))
            .set_key(Some(webhook_key(id)))
            .update_expression(expression)
            // Exists: an update would create a webhook that was deleted meanwhile.
            .condition_expression("attribute_exists(pk)")
            .set_expression_attribute_values(Some(values.into()))
            .send();
        let Err(error) = update.await else {
            return Ok(());
        };
        match error.as_service_error() {
            Some(UpdateItemError::ConditionalCheckFailedException(_)) => Ok(()),
            _ => Err(StoreError::service("updating a webhook", error)),
        }
    }
}
