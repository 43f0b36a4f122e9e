//! Configuration that several functions read, parsed and checked.

use tollgate_domain::key::{InvalidKeyFormat, KeyFormat};
use tollgate_domain::plan::{Catalog, InvalidCatalog};

use crate::env::{self, Env, MissingVar};

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidConfig {
    /// A variable that must be set is not.
    #[error(transparent)]
    Missing(#[from] MissingVar),
    /// The plans cannot be used.
    #[error("{} cannot be used", env::PLANS.name)]
    Plans(#[from] InvalidCatalog),
    /// The key format cannot be used.
    #[error("{} or {} cannot be used", env::KEY_BRAND.name, env::KEY_ENV.name)]
    KeyFormat(#[from] InvalidKeyFormat),
}

/// The plans on offer: those of [`env::PLANS`].
///
/// # Errors
/// When the variable holds anything but a list of plans.
pub fn plans(env: &Env) -> Result<Catalog, InvalidConfig> {
    match env.get(env::PLANS)? {
        "shipped" => Ok(Catalog::shipped()?),
        json => Ok(Catalog::from_json(json)?),
    }
}

/// What new keys look like.
///
/// # Errors
/// When a segment cannot stand in a key.
pub fn key_format(env: &Env) -> Result<KeyFormat, InvalidConfig> {
    Ok(KeyFormat::new(
        env.get(env::KEY_BRAND)?,
        env.get(env::KEY_ENV)?,
    )?)
}

/// The beginnings of route templates that count towards no limit.
///
/// # Errors
/// When the variable is not set.
pub fn uncounted_routes(env: &Env) -> Result<Vec<String>, InvalidConfig> {
    let routes = env.get(env::UNCOUNTED_ROUTES)?.split(',').map(str::trim);
    let routes = routes.filter(|route| !route.is_empty());
    Ok(routes.map(str::to_owned).collect())
}
