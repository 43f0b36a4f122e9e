//! Products and prices.

use serde_json::{Value, json};

use crate::calendar::{Interval, Unit};
use crate::call::Call;
use crate::error::ApiError;
use crate::form::Params;
use crate::money::Decimal;
use crate::state::{Metadata, State, optional_text, update_metadata};
use crate::table::{Row, in_range};

/// Product.
#[derive(Default)]
pub(crate) struct Product {
    id: String,
    created: i64,
    updated: i64,
    pub(crate) name: String,
    description: Option<String>,
    is_active: bool,
    metadata: Metadata,
    unit_label: Option<String>,
    statement_descriptor: Option<String>,
    url: Option<String>,
    default_price: Option<String>,
}

/// Price of a product.
pub(crate) struct Price {
    pub(crate) id: String,
    created: i64,
    pub(crate) currency: String,
    pub(crate) unit_amount: Decimal,
    pub(crate) product: String,
    pub(crate) recurring: Option<Interval>,
    pub(crate) nickname: Option<String>,
    lookup_key: Option<String>,
    metadata: Metadata,
    pub(crate) is_active: bool,
    tax_behavior: String,
}

impl Row for Product {
    const WHAT: &'static str = "product";

    fn id(&self) -> &str {
        &self.id
    }
}

impl Row for Price {
    const WHAT: &'static str = "price";

    fn id(&self) -> &str {
        &self.id
    }
}

impl State {
    pub(crate) fn product_json(&self, product: &Product) -> Value {
        json!({
            "id": product.id,
            "object": "product",
            "active": product.is_active,
            "created": product.created,
            "default_price": product.default_price,
            "description": product.description,
            "images": [],
            "livemode": self.is_live,
            "marketing_features": [],
            "metadata": product.metadata,
            "name": product.name,
            "package_dimensions": null,
            "shippable": null,
            "statement_descriptor": product.statement_descriptor,
            "tax_code": null,
            "tax_details": null,
            "type": "service",
            "unit_label": product.unit_label,
            "updated": product.updated,
            "url": product.url,
        })
    }

    pub(crate) fn price_json(&self, price: &Price) -> Value {
        let recurring = price.recurring.map(|interval| {
            json!({
                "interval": interval.unit.name(),
                "interval_count": interval.count,
                "meter": null,
                "trial_period_days": null,
                "usage_type": "licensed",
            })
        });
        json!({
            "id": price.id,
            "object": "price",
            "active": price.is_active,
            "billing_scheme": "per_unit",
            "created": price.created,
            "currency": price.currency,
            "custom_unit_amount": null,
            "livemode": self.is_live,
            "lookup_key": price.lookup_key,
            "metadata": price.metadata,
            "nickname": price.nickname,
            "product": price.product,
            "recurring": recurring,
            "tax_behavior": price.tax_behavior,
            "tiers_mode": null,
            "transform_quantity": null,
            "type": if price.recurring.is_some() { "recurring" } else { "one_time" },
            "unit_amount": price.unit_amount.whole(),
            "unit_amount_decimal": price.unit_amount.to_string(),
        })
    }

    /// Returns a price by its id, or an empty text for one that does not exist.
    pub(crate) fn product_name(&self, price: &str) -> &str {
        let price = self.prices.get(price);
        let product = price.and_then(|price| self.products.get(&price.product));
        product.map_or("", |product| &product.name)
    }

    fn new_product(&mut self, params: &Params, path: &str) -> Result<String, ApiError> {
        let at = |name: &str| match path {
            "" => name.to_owned(),
            path => format!("{path}.{name}"),
        };
        let metadata = update_metadata(&Metadata::new(), params, &at("metadata"))?;
        let id = match params.text(&at("id")) {
            Some(id) if self.products.get(id).is_some() => {
                let message = format!("Product already exists. You passed the id {id}");
                return Err(ApiError::invalid(message)
                    .with_code("resource_already_exists")
                    .with_param("id"));
            }
            Some(id) => id.to_owned(),
            None => self.ids.next("prod_", 14),
        };
        let text = |name: &str| params.non_empty(&at(name)).map(str::to_owned);
        self.products.insert(Product {
            id: id.clone(),
            created: self.now,
            updated: self.now,
            name: text("name").unwrap_or_default(),
            description: text("description"),
            is_active: params.boolean(&at("active")).unwrap_or(true),
            metadata,
            unit_label: text("unit_label"),
            statement_descriptor: text("statement_descriptor"),
            url: text("url"),
            default_price: None,
        });
        if let Some(product) = self.products.get(&id) {
            self.emit("product.created", self.product_json(product));
        }
        Ok(id)
    }
}

pub(crate) fn create_product(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let id = call.state.new_product(call.params, "")?;
    let product = call.state.products.find(&id, "id")?;
    Ok(call.state.product_json(product))
}

pub(crate) fn get_product(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let product = call.state.products.find(&call.id, "id")?;
    Ok(call.state.product_json(product))
}

pub(crate) fn update_product(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let (state, params) = (&mut *call.state, call.params);
    let product = state.products.find(&call.id, "id")?;
    let before = state.product_json(product);
    let metadata = update_metadata(&product.metadata, params, "metadata")?;
    if let Some(price) = params.non_empty("default_price") {
        state.prices.find(price, "default_price")?;
    }
    let now = state.now;
    let product = state.products.find_mut(&call.id, "id")?;
    product.metadata = metadata;
    let texts = [
        ("description", &mut product.description),
        ("unit_label", &mut product.unit_label),
        ("statement_descriptor", &mut product.statement_descriptor),
        ("url", &mut product.url),
        ("default_price", &mut product.default_price),
    ];
    for (name, stored) in texts {
        if let Some(text) = optional_text(params, name) {
            *stored = text;
        }
    }
    if let Some(name) = params.non_empty("name") {
        name.clone_into(&mut product.name);
    }
    product.is_active = params.boolean("active").unwrap_or(product.is_active);
    product.updated = now;
    let product = state.products.find(&call.id, "id")?;
    let json = state.product_json(product);
    state.emit_change("product.updated", &before, json.clone());
    Ok(json)
}

pub(crate) fn list_products(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let (state, params) = (&*call.state, call.params);
    let ids = params.texts("ids");
    state.products.list(
        params,
        "/v1/products",
        |product| {
            in_range(params, "created", product.created)
                && params
                    .boolean("active")
                    .is_none_or(|active| active == product.is_active)
                && (ids.is_empty() || ids.contains(&product.id.as_str()))
        },
        |product| state.product_json(product),
    )
}

pub(crate) fn create(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let (state, params) = (&mut *call.state, call.params);
    let metadata = update_metadata(&Metadata::new(), params, "metadata")?;
    let amount = match (
        params.text("unit_amount"),
        params.text("unit_amount_decimal"),
    ) {
        (Some(_), Some(_)) => {
            let message =
                "You may only specify one of these parameters: unit_amount, unit_amount_decimal.";
            return Err(ApiError::invalid(message));
        }
        (Some(amount), None) | (None, Some(amount)) => Decimal::parse(amount),
        (None, None) => None,
    };
    let unit_amount = amount.ok_or_else(|| ApiError::parameter_missing("unit_amount"))?;
    if params
        .text("billing_scheme")
        .is_some_and(|scheme| scheme != "per_unit")
    {
        return Err(ApiError::unsupported("billing_scheme"));
    }
    let recurring = recurring(params)?;
    if let Some(key) = params.text("lookup_key")
        && state
            .prices
            .iter()
            .any(|price| price.lookup_key.as_deref() == Some(key))
    {
        let message = format!("A price already uses that lookup key: {key}");
        return Err(ApiError::invalid(message).with_param("lookup_key"));
    }
    let product = match (params.text("product"), params.nested("product_data")) {
        (Some(product), None) => {
            state.products.find(product, "product")?;
            product.to_owned()
        }
        (None, Some(_)) => state.new_product(params, "product_data")?,
        (Some(_), Some(_)) => {
            let message = "You may only specify one of these parameters: product, product_data.";
            return Err(ApiError::invalid(message));
        }
        (None, None) => return Err(ApiError::parameter_missing("product")),
    };
    let id = state.ids.next("price_1", 23);
    let text = |name: &str| params.non_empty(name).map(str::to_owned);
    state.prices.insert(Price {
        id: id.clone(),
        created: state.now,
        currency: params.text("currency").unwrap_or_default().to_lowercase(),
        unit_amount,
        product,
        recurring,
        nickname: text("nickname"),
        lookup_key: text("lookup_key"),
        metadata,
        is_active: params.boolean("active").unwrap_or(true),
        tax_behavior: text("tax_behavior").unwrap_or_else(|| "unspecified".to_owned()),
    });
    let json = state.price_json(state.prices.find(&id, "id")?);
    state.emit("price.created", json.clone());
    Ok(json)
}

fn recurring(params: &Params) -> Result<Option<Interval>, ApiError> {
    let unit = params.text("recurring.interval").and_then(Unit::parse);
    let Some(unit) = unit else { return Ok(None) };
    let count = params.integer("recurring.interval_count").unwrap_or(1);
    let most = match unit {
        Unit::Day => 1_095,
        Unit::Week => 156,
        Unit::Month => 36,
        Unit::Year => 3,
    };
    if !(1..=most).contains(&count) {
        let message =
            format!("Invalid interval_count: must be between 1 and {most}, which is three years.");
        return Err(ApiError::invalid(message).with_param("recurring[interval_count]"));
    }
    Ok(Some(Interval { unit, count }))
}

pub(crate) fn get(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let price = call.state.prices.find(&call.id, "id")?;
    Ok(call.state.price_json(price))
}

pub(crate) fn update(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let (state, params) = (&mut *call.state, call.params);
    let price = state.prices.find(&call.id, "id")?;
    let before = state.price_json(price);
    let metadata = update_metadata(&price.metadata, params, "metadata")?;
    let price = state.prices.find_mut(&call.id, "id")?;
    price.metadata = metadata;
    price.is_active = params.boolean("active").unwrap_or(price.is_active);
    for (name, stored) in [
        ("nickname", &mut price.nickname),
        ("lookup_key", &mut price.lookup_key),
    ] {
        if let Some(text) = optional_text(params, name) {
            *stored = text;
        }
    }
    if let Some(behavior) = params.non_empty("tax_behavior") {
        behavior.clone_into(&mut price.tax_behavior);
    }
    let json = state.price_json(state.prices.find(&call.id, "id")?);
    state.emit_change("price.updated", &before, json.clone());
    Ok(json)
}

pub(crate) fn list(call: &mut Call<'_>) -> Result<Value, ApiError> {
    let (state, params) = (&*call.state, call.params);
    let keys = params.texts("lookup_keys");
    let is = |name: &str, value: &str| params.text(name).is_none_or(|wanted| wanted == value);
    state.prices.list(
        params,
        "/v1/prices",
        |price| {
            in_range(params, "created", price.created)
                && params
                    .boolean("active")
                    .is_none_or(|active| active == price.is_active)
                && is("currency", &price.currency)
                && is("product", &price.product)
                && is(
                    "type",
                    if price.recurring.is_some() {
                        "recurring"
                    } else {
                        "one_time"
                    },
                )
                && is(
                    "recurring.interval",
                    price.recurring.map_or("", |interval| interval.unit.name()),
                )
                && (keys.is_empty()
                    || price
                        .lookup_key
                        .as_deref()
                        .is_some_and(|key| keys.contains(&key)))
        },
        |price| state.price_json(price),
    )
}
