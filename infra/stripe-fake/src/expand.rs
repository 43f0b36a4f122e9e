//! Parameter `expand`: objects in place of their ids (<https://docs.stripe.com/api/expanding_objects>).

use serde_json::Value;

use crate::error::ApiError;
use crate::form::Params;
use crate::state::State;

const MAX_DEPTH: usize = 4;

/// Expands what the parameter `expand` names.
pub(crate) fn expand(state: &State, mut json: Value, params: &Params) -> Result<Value, ApiError> {
    for path in params.texts("expand") {
        let names: Vec<&str> = path.split('.').collect();
        if names.len() > MAX_DEPTH {
            let message = format!(
                "You cannot expand more than {MAX_DEPTH} levels of a property. Property: {path}"
            );
            return Err(ApiError::invalid(message).with_param("expand"));
        }
        if !expand_path(state, &mut json, &names) {
            let message = format!("This property cannot be expanded ({path}).");
            return Err(ApiError::invalid(message).with_param("expand"));
        }
    }
    Ok(json)
}

/// Expands a path. Returns `false` if it does not exist. An absent value has nothing to expand.
fn expand_path(state: &State, json: &mut Value, names: &[&str]) -> bool {
    let Some((first, rest)) = names.split_first() else {
        return true;
    };
    if let Value::Array(members) = json {
        return members
            .iter_mut()
            .all(|member| expand_path(state, member, names));
    }
    if let Some(added) = state.added(json, first)
        && let Value::Object(members) = json
    {
        members.insert((*first).to_owned(), added);
    }
    let Some(value) = json.get_mut(*first) else {
        return false;
    };
    if let Value::String(id) = value {
        match state.object(id) {
            Some(object) => *value = object,
            None => return false,
        }
    }
    match value {
        Value::Null => true,
        Value::Object(_) | Value::Array(_) => expand_path(state, value, rest),
        _ => false,
    }
}

impl State {
    /// Returns a member that an object has only if it is expanded.
    fn added(&self, json: &Value, name: &str) -> Option<Value> {
        match (json["object"].as_str()?, name) {
            ("checkout.session", "line_items") => self.line_items_of(json["id"].as_str()?),
            _ => None,
        }
    }
}
