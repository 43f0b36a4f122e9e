//! Invoices. They are finalized and paid in `collection`.

mod json;
pub(crate) mod operations;

use serde_json::Value;

use crate::error::ApiError;
use crate::invoice_item::InvoiceItem;
use crate::money::Decimal;
use crate::renewal::DRAFT;
use crate::state::{Metadata, State};
use crate::table::Row;

/// Most lines of an invoice.
pub(crate) const MAX_LINES: usize = 250;

/// Invoice of a customer.
pub(crate) struct Invoice {
    pub(crate) id: String,
    pub(crate) created: i64,
    pub(crate) customer: String,
    pub(crate) subscription: Option<String>,
    pub(crate) status: Status,
    pub(crate) reason: &'static str,
    pub(crate) collection: Collection,
    pub(crate) currency: String,
    pub(crate) description: Option<String>,
    pub(crate) footer: Option<String>,
    pub(crate) metadata: Metadata,
    pub(crate) lines: Vec<Line>,
    pub(crate) period: (i64, i64),
    /// Whether it is finalized and collected automatically.
    pub(crate) is_automatic: bool,
    pub(crate) finalizes_at: Option<i64>,
    pub(crate) method: Option<String>,
    pub(crate) number: Option<String>,
    pub(crate) starting_balance: i64,
    pub(crate) ending_balance: Option<i64>,
    pub(crate) amount_due: i64,
    pub(crate) amount_paid: i64,
    pub(crate) attempts: u32,
    pub(crate) next_attempt: Option<i64>,
    pub(crate) finalized_at: Option<i64>,
    pub(crate) paid_at: Option<i64>,
    pub(crate) voided_at: Option<i64>,
}

/// Line of an invoice.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    pub(crate) id: String,
    pub(crate) amount: i64,
    pub(crate) description: Option<String>,
    pub(crate) period: (i64, i64),
    pub(crate) metadata: Metadata,
    pub(crate) quantity: i64,
    pub(crate) price: Option<String>,
    pub(crate) unit_amount: Decimal,
    pub(crate) subscription: Option<String>,
    pub(crate) source: LineSource,
    pub(crate) is_proration: bool,
}

/// Invoice item or subscription item of a line, by its id.
#[derive(Debug, Clone)]
pub(crate) enum LineSource {
    InvoiceItem(String),
    SubscriptionItem(String),
}

/// Status of an invoice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    Draft,
    Open,
    Paid,
    Void,
}

/// Collection method of an invoice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Collection {
    Charge,
    Send { due: i64 },
}

/// Invoice to create, without lines.
pub(crate) struct NewInvoice {
    pub(crate) customer: String,
    pub(crate) subscription: Option<String>,
    pub(crate) reason: &'static str,
    pub(crate) collection: Collection,
    pub(crate) currency: String,
    pub(crate) period: (i64, i64),
    pub(crate) is_automatic: bool,
}

impl Status {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Open => "open",
            Self::Paid => "paid",
            Self::Void => "void",
        }
    }
}

impl Row for Invoice {
    const WHAT: &'static str = "invoice";

    fn id(&self) -> &str {
        &self.id
    }

    fn customer(&self) -> Option<&str> {
        Some(&self.customer)
    }
}

impl Invoice {
    pub(crate) fn total(&self) -> i64 {
        self.lines.iter().map(|line| line.amount).sum()
    }

    fn collection_method(&self) -> &'static str {
        match self.collection {
            Collection::Charge => "charge_automatically",
            Collection::Send { .. } => "send_invoice",
        }
    }

    fn due_date(&self) -> Option<i64> {
        match self.collection {
            Collection::Charge => None,
            Collection::Send { due } => Some(due),
        }
    }
}

impl State {
    /// Creates a draft and returns its id. It is not an event yet, because it has no lines.
    pub(crate) fn new_invoice(&mut self, new: NewInvoice) -> String {
        let id = self.ids.next("in_1", 23);
        self.invoices.insert(Invoice {
            id: id.clone(),
            created: self.now,
            customer: new.customer,
            subscription: new.subscription,
            status: Status::Draft,
            reason: new.reason,
            collection: new.collection,
            currency: new.currency,
            description: None,
            footer: None,
            metadata: Metadata::new(),
            lines: Vec::new(),
            period: new.period,
            is_automatic: new.is_automatic,
            finalizes_at: new.is_automatic.then_some(self.now + DRAFT),
            method: None,
            number: None,
            starting_balance: 0,
            ending_balance: None,
            amount_due: 0,
            amount_paid: 0,
            attempts: 0,
            next_attempt: None,
            finalized_at: None,
            paid_at: None,
            voided_at: None,
        });
        id
    }

    pub(crate) fn add_lines(&mut self, invoice: &str, lines: Vec<Line>) {
        if let Some(invoice) = self.invoices.get_mut(invoice) {
            invoice.lines.extend(lines);
        }
    }

    /// Puts invoice items on a draft; they are pending no more.
    pub(crate) fn add_items(&mut self, invoice: &str, items: &[String]) {
        let mut lines = Vec::with_capacity(items.len());
        for id in items {
            let line_id = self.ids.next("il_1", 23);
            if let Some(item) = self.invoice_items.get_mut(id) {
                item.invoice = Some(invoice.to_owned());
                lines.push(line_of(line_id, item));
            }
        }
        self.add_lines(invoice, lines);
    }

    /// Changes the line of an invoice item.
    pub(crate) fn update_line(&mut self, invoice: &str, item: &InvoiceItem) {
        let Some(invoice) = self.invoices.get_mut(invoice) else {
            return;
        };
        for line in &mut invoice.lines {
            if matches!(&line.source, LineSource::InvoiceItem(id) if *id == item.id) {
                *line = line_of(line.id.clone(), item);
            }
        }
    }

    /// Removes the line of an invoice item.
    pub(crate) fn remove_line(&mut self, invoice: &str, item: &str) {
        if let Some(invoice) = self.invoices.get_mut(invoice) {
            let is_other =
                |line: &Line| !matches!(&line.source, LineSource::InvoiceItem(id) if id == item);
            invoice.lines.retain(is_other);
        }
    }

    pub(crate) fn emit_invoice(&mut self, kind: &'static str, id: &str) {
        if let Some(invoice) = self.invoices.get(id) {
            self.emit(kind, self.invoice_json(invoice));
        }
    }

    fn rendered_invoice(&self, id: &str) -> Result<Value, ApiError> {
        Ok(self.invoice_json(self.invoices.find(id, "id")?))
    }
}

fn line_of(id: String, item: &InvoiceItem) -> Line {
    Line {
        id,
        amount: item.amount,
        description: item.description.clone(),
        period: item.period,
        metadata: item.metadata.clone(),
        quantity: item.quantity,
        price: item.price.clone(),
        unit_amount: item.unit_amount,
        subscription: item.subscription.clone(),
        source: LineSource::InvoiceItem(item.id.clone()),
        is_proration: item.is_proration,
    }
}
