//! The strategic merge patch: lists are merged item by item where the published list keys say so, and keys beginning
//! with `$` say what merging can't.

use serde_json::{Map, Value};

use super::PatchError;
use super::elements::{Identity, in_order};
use crate::schema::{self, Field, Merging, Shape, Type};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const SET_ORDER: &str = "$setElementOrder/";

/// Applies a strategic merge patch to an object of the named type (its full name in the OpenAPI document).
///
/// # Errors
/// When the patch is no object, or a directive in it can't be followed.
pub fn strategic(type_name: &str, current: &Value, patch: &Value) -> Result<Value, PatchError> {
    let (Value::Object(current), Value::Object(patch)) = (current, patch) else {
        return Err(PatchError::NotAPatch("a strategic merge patch is an object".to_owned()));
    };
    let place = Place { path: String::new(), shape: schema::of(type_name).map_or(Inside::Unknown, Inside::Type) };
    place.merge_object(current.clone(), patch.clone()).map(Value::Object)
}

/// Where in the object we are, and what is known of the values there.
struct Place<'a> {
    path: String,
    shape: Inside<'a>,
}

/// What the fields of an object are.
enum Inside<'a> {
    Type(&'a Type),
    /// A map, whose values have one shape.
    Map(&'a Shape),
    Unknown,
}

impl<'a> Inside<'a> {
    fn of(shape: &'a Shape) -> Self {
        match shape {
            Shape::Object(name) => schema::of(name).map_or(Self::Unknown, Self::Type),
            Shape::Map(values) => Self::Map(values),
            Shape::List(items) => Self::of(items),
            Shape::Text
            | Shape::Boolean
            | Shape::Integer
            | Shape::Long
            | Shape::Number
            | Shape::Bytes
            | Shape::Time
            | Shape::MicroTime
            | Shape::Quantity
            | Shape::IntOrText
            | Shape::Any => Self::Unknown,
        }
    }
}

impl Place<'_> {
    fn field(&self, name: &str) -> (Place<'_>, Option<&Merging>) {
        let path = if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) };
        let field = match self.shape {
            Inside::Type(of_type) => of_type.fields.get(name),
            Inside::Map(values) => return (Place { path, shape: Inside::of(values) }, None),
            Inside::Unknown => None,
        };
        let shape = field.map_or(Inside::Unknown, |field: &Field| Inside::of(&field.shape));
        (Place { path, shape }, field.map(|field| &field.merging))
    }

    fn merge_object(
        &self,
        mut current: Map<String, Value>,
        mut patch: Map<String, Value>,
    ) -> Result<Map<String, Value>, PatchError> {
        if let Some(directive) = patch.shift_remove(DIRECTIVE) {
            return match directive.as_str() {
                Some("replace") => Ok(without_directives(patch)),
                Some("delete") => Ok(Map::new()),
                _ => Err(self.unknown_directive(&directive)),
            };
        }
        self.retain_keys(&mut current, &mut patch)?;
        self.order_elements(&mut current, &mut patch)?;
        self.delete_elements(&mut current, &mut patch)?;
        for (name, value) in patch {
            self.merge_field(&mut current, name, value)?;
        }
        Ok(current)
    }

    fn merge_field(&self, current: &mut Map<String, Value>, name: String, value: Value) -> Result<(), PatchError> {
        if value.is_null() {
            current.shift_remove(&name);
            return Ok(());
        }
        let (place, merging) = self.field(&name);
        let merged = match (current.get_mut(&name).map(Value::take), value) {
            (Some(Value::Object(old)), Value::Object(new)) => Value::Object(place.merge_object(old, new)?),
            (Some(Value::Array(old)), Value::Array(new)) => place.merge_list(old, new, merging)?,
            (_, new) => match clean(new) {
                Some(new) => new,
                None => {
                    current.shift_remove(&name);
                    return Ok(());
                }
            },
        };
        current.insert(name, merged);
        Ok(())
    }

    fn merge_list(
        &self,
        current: Vec<Value>,
        patch: Vec<Value>,
        merging: Option<&Merging>,
    ) -> Result<Value, PatchError> {
        let Some(merging) = merging.filter(|merging| merging.merges()) else {
            return Ok(clean_list(patch));
        };
        if !patch.iter().chain(&current).any(Value::is_object) {
            return Ok(Value::Array(merge_plain(current, patch)));
        }
        if !patch.iter().chain(&current).all(Value::is_object) {
            return Err(PatchError::MixedList { field: self.path.clone() });
        }
        self.merge_items(current, patch, &merging.patch_merge_key).map(Value::Array)
    }

    fn merge_items(&self, mut current: Vec<Value>, patch: Vec<Value>, key: &str) -> Result<Vec<Value>, PatchError> {
        let identity = Identity::Key(key);
        let mut replaces = false;
        let mut changes = Vec::new();
        for item in patch {
            match item.get(DIRECTIVE).map(|directive| (directive.as_str(), directive)) {
                None => changes.push(item),
                Some((Some("replace"), _)) => replaces = true,
                Some((Some("delete"), _)) => {
                    let deleted = self.key_of(&item, key)?.clone();
                    current.retain(|other| identity.of(other) != Some(&deleted));
                }
                Some((_, directive)) => return Err(self.unknown_directive(directive)),
            }
        }
        if replaces {
            return Ok(changes.into_iter().filter_map(clean).collect());
        }
        let mut merged = current.clone();
        for item in &changes {
            self.key_of(item, key)?;
            match identity.position(&merged, item) {
                Some(at) => merged[at] = self.merge_item(merged[at].take(), item.clone())?,
                None => merged.extend(clean(item.clone())),
            }
        }
        Ok(in_order(merged, &changes, &current, identity))
    }

    fn merge_item(&self, current: Value, patch: Value) -> Result<Value, PatchError> {
        match (current, patch) {
            (Value::Object(current), Value::Object(patch)) => self.merge_object(current, patch).map(Value::Object),
            (_, patch) => Ok(patch),
        }
    }

    fn key_of<'v>(&self, item: &'v Value, key: &str) -> Result<&'v Value, PatchError> {
        item.get(key).ok_or_else(|| PatchError::NoMergeKey {
            field: self.path.clone(),
            merge_key: key.to_owned(),
            item: item.to_string(),
        })
    }

    /// `$retainKeys` names the only fields that may be left, as when a volume changes its kind.
    fn retain_keys(&self, current: &mut Map<String, Value>, patch: &mut Map<String, Value>) -> Result<(), PatchError> {
        let Some(retained) = patch.shift_remove(RETAIN_KEYS) else { return Ok(()) };
        let wrong = || PatchError::RetainKeys { field: self.path.clone() };
        let Value::Array(retained) = retained else { return Err(wrong()) };
        let is_retained = |name: &String| retained.iter().any(|key| key.as_str() == Some(name));
        let is_directive = |name: &str| name.starts_with(DELETE_FROM) || name.starts_with(SET_ORDER);
        if patch.iter().any(|(name, value)| !value.is_null() && !is_directive(name) && !is_retained(name)) {
            return Err(wrong());
        }
        current.retain(|name, _| is_retained(name));
        Ok(())
    }

    /// `$setElementOrder/x` merges list `x` at once and puts it in the order that it gives.
    fn order_elements(
        &self,
        current: &mut Map<String, Value>,
        patch: &mut Map<String, Value>,
    ) -> Result<(), PatchError> {
        for (name, order) in take_directives(patch, SET_ORDER) {
            let (place, merging) = self.field(&name);
            let Value::Array(order) = order else { return Err(PatchError::NotAList { field: place.path }) };
            let old = place.take_list(current, &name)?;
            let new = place.take_list(patch, &name)?;
            if old.is_none() && new.is_none() {
                continue;
            }
            let identity = match merging.map(|merging| merging.patch_merge_key.as_str()) {
                Some(key) if !key.is_empty() => Identity::Key(key),
                _ => Identity::Value,
            };
            place.check_order(new.as_deref().unwrap_or_default(), &order, identity)?;
            let before = old.clone().unwrap_or_default();
            let merged = match (old, new) {
                (Some(old), Some(new)) => place.merge_list(old, new, merging)?,
                (old, new) => clean_list(old.or(new).unwrap_or_default()),
            };
            let Value::Array(merged) = merged else { return Err(PatchError::NotAList { field: place.path }) };
            current.insert(name, Value::Array(in_order(merged, &order, &before, identity)));
        }
        Ok(())
    }

    fn take_list(&self, fields: &mut Map<String, Value>, name: &str) -> Result<Option<Vec<Value>>, PatchError> {
        match fields.shift_remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(_) => Err(PatchError::NotAList { field: self.path.clone() }),
        }
    }

    fn check_order(&self, items: &[Value], order: &[Value], identity: Identity<'_>) -> Result<(), PatchError> {
        let stays = |item: &&Value| item.get(DIRECTIVE).is_none();
        let positions: Option<Vec<_>> = items.iter().filter(stays).map(|item| identity.position(order, item)).collect();
        match positions {
            Some(positions) if positions.is_sorted() => Ok(()),
            _ => Err(PatchError::ElementOrder { field: self.path.clone() }),
        }
    }

    /// `$deleteFromPrimitiveList/x` removes plain values from list `x`.
    fn delete_elements(
        &self,
        current: &mut Map<String, Value>,
        patch: &mut Map<String, Value>,
    ) -> Result<(), PatchError> {
        for (name, deleted) in take_directives(patch, DELETE_FROM) {
            let Value::Array(deleted) = deleted else {
                return Err(PatchError::NotAList { field: self.field(&name).0.path });
            };
            if let Some(Value::Array(items)) = current.get_mut(&name) {
                items.retain(|item| !deleted.contains(item));
            }
        }
        Ok(())
    }

    fn unknown_directive(&self, directive: &Value) -> PatchError {
        PatchError::UnknownDirective { field: self.path.clone(), directive: directive.to_string() }
    }
}

fn take_directives(patch: &mut Map<String, Value>, prefix: &str) -> Vec<(String, Value)> {
    let names: Vec<_> = patch.keys().filter(|name| name.starts_with(prefix)).cloned().collect();
    let take = |name: String| Some((name[prefix.len()..].to_owned(), patch.shift_remove(&name)?));
    names.into_iter().filter_map(take).collect()
}

fn merge_plain(current: Vec<Value>, patch: Vec<Value>) -> Vec<Value> {
    let mut merged: Vec<Value> = Vec::new();
    for item in current.iter().chain(&patch) {
        if !merged.contains(item) {
            merged.push(item.clone());
        }
    }
    in_order(merged, &patch, &current, Identity::Value)
}

/// A value that is taken from the patch as it is, since there is nothing to merge it with: nulls go, and so does what
/// `$patch` says to do with a value that isn't there.
fn clean(value: Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::Object(fields) if fields.contains_key(DIRECTIVE) => None,
        Value::Object(fields) => Some(Value::Object(without_directives(fields))),
        Value::Array(items) => Some(clean_list(items)),
        plain @ (Value::Bool(_) | Value::Number(_) | Value::String(_)) => Some(plain),
    }
}

fn clean_list(items: Vec<Value>) -> Value {
    Value::Array(items.into_iter().filter_map(clean).collect())
}

fn without_directives(fields: Map<String, Value>) -> Map<String, Value> {
    let is_directive = |name: &str| {
        name == DIRECTIVE || name == RETAIN_KEYS || name.starts_with(DELETE_FROM) || name.starts_with(SET_ORDER)
    };
    let kept = fields.into_iter().filter(|(name, _)| !is_directive(name));
    kept.filter_map(|(name, value)| Some((name, clean(value)?))).collect()
}

#[cfg(test)]
mod tests;
