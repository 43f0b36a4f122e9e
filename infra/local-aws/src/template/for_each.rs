//! Expansion of `Fn::ForEach`, in the forms that the template uses
//! (<https://docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/intrinsic-function-reference-foreach.html>):
//! the collection is a list of strings, and the identifier may occur in the keys of the fragment, in `!Sub`,
//! in `!Ref`, and in `!Sub` within `!GetAtt`.

use yaml_serde::value::TaggedValue;
use yaml_serde::{Mapping, Value};

use super::InvalidTemplate;

const PREFIX: &str = "Fn::ForEach::";

/// Replaces each loop in `value` by its iterations.
///
/// # Errors
/// When a loop has an unsupported form, or a member twice.
pub(super) fn expand(value: Value) -> Result<Value, InvalidTemplate> {
    Ok(match value {
        Value::Mapping(members) => {
            let mut expanded = Mapping::new();
            for (key, value) in members {
                let Some(name) = key.as_str().and_then(|key| key.strip_prefix(PREFIX)) else {
                    insert(&mut expanded, key, expand(value)?)?;
                    continue;
                };
                for (key, value) in iterations(name, &value)? {
                    insert(&mut expanded, key, value)?;
                }
            }
            Value::Mapping(expanded)
        }
        Value::Sequence(elements) => {
            let elements = elements.into_iter().map(expand);
            Value::Sequence(elements.collect::<Result<_, _>>()?)
        }
        Value::Tagged(mut tagged) => {
            tagged.value = expand(tagged.value)?;
            Value::Tagged(tagged)
        }
        other => other,
    })
}

/// Adds a member, unless there is one with the same key.
fn insert(members: &mut Mapping, key: Value, value: Value) -> Result<(), InvalidTemplate> {
    if members.contains_key(&key) {
        let key = key.as_str().unwrap_or_default();
        return Err(InvalidTemplate::Loop(format!("{key} is there twice")));
    }
    members.insert(key, value);
    Ok(())
}

/// Returns the members of all iterations of the loop `name`.
fn iterations(name: &str, of: &Value) -> Result<Vec<(Value, Value)>, InvalidTemplate> {
    let invalid = |what: &str| InvalidTemplate::Loop(format!("{PREFIX}{name} {what}"));
    let Some([identifier, collection, fragment]) = of.as_sequence().map(Vec::as_slice) else {
        return Err(invalid(
            "is not a list of identifier, collection and fragment",
        ));
    };
    let identifier = identifier.as_str();
    let identifier = identifier.ok_or_else(|| invalid("has no identifier"))?;
    let collection = collection.as_sequence();
    let collection = collection.ok_or_else(|| invalid("has a collection that is not a list"))?;
    let fragment = fragment.as_mapping();
    let fragment = fragment.ok_or_else(|| invalid("has a fragment that is not a mapping"))?;
    let mut members = Vec::new();
    for item in collection {
        let Value::String(item) = item else {
            return Err(invalid("has an element that is not a string"));
        };
        let replace = Replacement { identifier, item };
        for (key, value) in fragment {
            let key = key.as_str().unwrap_or_default();
            let replaced = replace.in_text(key);
            // Otherwise each iteration would have the same key. This also rejects nested loops.
            if replaced == key {
                return Err(invalid(&format!(
                    "has the key {key} without ${{{identifier}}}"
                )));
            }
            members.push((Value::String(replaced), expand(replace.in_value(value))?));
        }
    }
    Ok(members)
}

/// Replacement of a loop's identifier by an element of its collection.
#[derive(Clone, Copy)]
struct Replacement<'a> {
    identifier: &'a str,
    item: &'a str,
}

impl Replacement<'_> {
    fn in_text(self, text: &str) -> String {
        text.replace(&format!("${{{}}}", self.identifier), self.item)
    }

    fn in_value(self, value: &Value) -> Value {
        match value {
            Value::Tagged(tagged) => self.in_tagged(tagged),
            Value::Sequence(elements) => {
                Value::Sequence(elements.iter().map(|one| self.in_value(one)).collect())
            }
            Value::Mapping(members) => {
                let members = members.iter();
                let members = members.map(|(key, value)| (key.clone(), self.in_value(value)));
                Value::Mapping(members.collect())
            }
            other => other.clone(),
        }
    }

    fn in_tagged(self, tagged: &TaggedValue) -> Value {
        let with = |value| {
            let tag = tagged.tag.clone();
            Value::Tagged(Box::new(TaggedValue { tag, value }))
        };
        let text = tagged.value.as_str();
        if tagged.tag == "!Ref" && text == Some(self.identifier) {
            return Value::String(self.item.to_owned());
        }
        if tagged.tag == "!Sub" {
            return match text {
                Some(text) => with(Value::String(self.in_text(text))),
                None => with(self.in_value(&tagged.value)),
            };
        }
        let value = self.in_value(&tagged.value);
        if tagged.tag == "!GetAtt"
            && let Some([resource, attribute]) = value.as_sequence().map(Vec::as_slice)
            && let (Some(resource), Some(attribute)) = (literal(resource), attribute.as_str())
        {
            return with(Value::String(format!("{resource}.{attribute}")));
        }
        with(value)
    }
}

/// Returns a string, or that of a `!Sub` without variables.
fn literal(value: &Value) -> Option<&str> {
    match value {
        Value::Tagged(tagged) if tagged.tag == "!Sub" => {
            let text = tagged.value.as_str();
            text.filter(|text| !text.contains("${"))
        }
        Value::String(text) => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn yaml(text: &str) -> Value {
        yaml_serde::from_str(text).unwrap()
    }

    fn check(text: &str, expected: &str) {
        assert_eq!(expand(yaml(text)).unwrap(), yaml(expected));
    }

    #[test]
    fn a_fragment_is_repeated_for_each_element() {
        check(
            "Before: 1\nFn::ForEach::L: [N, [A, B], { '${N}Role': { Type: Role }, 'L${N}': 2 }]\nAfter: 3",
            "Before: 1\nARole: { Type: Role }\nLA: 2\nBRole: { Type: Role }\nLB: 2\nAfter: 3",
        );
        check("Fn::ForEach::L: [N, [], { '${N}': 1 }]", "{}");
        check(
            "{ A: [{ Fn::ForEach::L: [N, [b], { '${N}': 1 }] }] }",
            "{ A: [{ b: 1 }] }",
        );
    }

    #[test]
    fn the_identifier_is_replaced_where_cloudformation_replaces_it() {
        check(
            "Fn::ForEach::L: [N, [A], { '${N}': { Plain: '${N}', '${N}': 1, List: [!Ref N, !Ref Other] } }]",
            "A: { Plain: '${N}', '${N}': 1, List: [A, !Ref Other] }",
        );
        check(
            "Fn::ForEach::L: [N, [A], { '${N}': !Sub '${AWS::StackName}-${N}-${Name}' }]",
            "A: !Sub '${AWS::StackName}-A-${Name}'",
        );
        check(
            "Fn::ForEach::L: [N, [A], { '${N}': !FindInMap [Table, !Ref N, Text] }]",
            "A: !FindInMap [Table, A, Text]",
        );
    }

    #[test]
    fn an_attribute_of_a_resource_of_the_same_iteration_is_resolved() {
        check(
            "Fn::ForEach::L: [N, [A], { '${N}': [!GetAtt [!Sub '${N}Group', Arn], !GetAtt Other.Arn] }]",
            "A: [!GetAtt AGroup.Arn, !GetAtt Other.Arn]",
        );
    }

    #[test]
    fn unsupported_loops_are_rejected() {
        for (of, expected) in [
            (
                "[N, [A]]",
                "is not a list of identifier, collection and fragment",
            ),
            (
                "{ N: [A] }",
                "is not a list of identifier, collection and fragment",
            ),
            ("[1, [A], { '${N}': 1 }]", "has no identifier"),
            (
                "[N, !Ref Names, { '${N}': 1 }]",
                "has a collection that is not a list",
            ),
            (
                "[N, [!Ref A], { '${N}': 1 }]",
                "has an element that is not a string",
            ),
            ("[N, [A], '${N}']", "has a fragment that is not a mapping"),
            ("[N, [A], { Role: 1 }]", "has the key Role without ${N}"),
            (
                "[N, [A], { Fn::ForEach::M: [K, [B], { '${N}${K}': 1 }] }]",
                "has the key Fn::ForEach::M without ${N}",
            ),
        ] {
            let error = expand(yaml(&format!("Fn::ForEach::L: {of}"))).unwrap_err();
            let expected = format!("loop that is not supported: Fn::ForEach::L {expected}");
            assert!(error.to_string().ends_with(&expected), "{error}");
        }
        for twice in [
            "Fn::ForEach::L: [N, [A, A], { '${N}': 1 }]",
            "A: 1\nFn::ForEach::L: [N, [A], { '${N}': 1 }]",
            "Fn::ForEach::L: [N, [A], { '${N}': 1 }]\nA: 1",
        ] {
            let error = expand(yaml(twice)).unwrap_err().to_string();
            assert!(error.ends_with("A is there twice"), "{error}");
        }
    }
}
