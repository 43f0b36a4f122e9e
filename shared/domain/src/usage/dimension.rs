//! Dimensions by which the calls of a day are summed up besides their total.

use std::collections::{BTreeMap, BTreeSet};

use super::{Cost, UsageRecord};
use crate::id::KeyId;

/// Method and route template.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    /// HTTP method.
    pub method: String,
    /// Route template.
    pub route: String,
}

/// Language model, as costs name it. At least one of the two is known.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Model {
    /// Provider that was paid.
    pub provider: Option<String>,
    /// Name of the model.
    pub name: Option<String>,
}

/// Value of a dimension, by which calls are summed up.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DimensionValue {
    /// Calls of an endpoint.
    Endpoint(Endpoint),
    /// Calls with a key.
    Key(KeyId),
    /// Calls with costs of a model; tokens and amounts are those of these costs.
    Model(Model),
    /// Calls with costs of several models of this provider, once for each model but the first. The calls of the provider
    /// are those of its models, less these.
    Repeated(String),
}

/// Dimension of a [`DimensionValue`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dimension {
    /// Endpoints.
    Endpoint,
    /// Keys.
    Key,
    /// Models.
    Model,
    /// Repetitions of providers.
    Repeated,
}

impl DimensionValue {
    /// Returns the dimension.
    #[must_use]
    pub fn dimension(&self) -> Dimension {
        match self {
            DimensionValue::Endpoint(_) => Dimension::Endpoint,
            DimensionValue::Key(_) => Dimension::Key,
            DimensionValue::Model(_) => Dimension::Model,
            DimensionValue::Repeated(_) => Dimension::Repeated,
        }
    }
}

impl UsageRecord {
    /// Returns the values by which the call is summed up, each with those of its costs that are part of the sum.
    pub(super) fn dimension_values(&self) -> Vec<(DimensionValue, Vec<&Cost>)> {
        let endpoint = Endpoint {
            method: self.method.clone(),
            route: self.endpoint.clone(),
        };
        let mut values = vec![
            (
                DimensionValue::Endpoint(endpoint),
                self.costs.iter().collect(),
            ),
            (
                DimensionValue::Key(self.key_id.clone()),
                self.costs.iter().collect(),
            ),
        ];
        let mut models: BTreeMap<Model, Vec<&Cost>> = BTreeMap::new();
        for cost in &self.costs {
            if cost.provider.is_some() || cost.model.is_some() {
                let model = Model {
                    provider: cost.provider.clone(),
                    name: cost.model.clone(),
                };
                models.entry(model).or_default().push(cost);
            }
        }
        let mut providers = BTreeSet::new();
        for (model, costs) in models {
            if let Some(provider) = model.provider.clone()
                && !providers.insert(provider.clone())
            {
                values.push((DimensionValue::Repeated(provider), Vec::new()));
            }
            values.push((DimensionValue::Model(model), costs));
        }
        values
    }
}
