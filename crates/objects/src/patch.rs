//! Changes an object by a patch of one of the three forms that the API takes. Knows nothing of validation: what comes
//! out is decoded, defaulted and validated like any other body.

use json_patch::{AddOperation, PatchOperation, ReplaceOperation};
use serde_json::Value;

use crate::size::{DEEPEST, Size};
use crate::status::Failure;

mod elements;
mod strategic;

pub use strategic::strategic;

/// The real server's limit on the operations of one JSON patch.
const MOST_OPERATIONS: usize = 10_000;
/// The real server's limit on what the copies and moves of one JSON patch may come to, about as many bytes as text.
const MOST_MOVED: usize = 3 * 1024 * 1024;

/// A patch that can't be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    #[error("error decoding patch: {0}")]
    NotAPatch(String),
    #[error("a JSON patch has at most {MOST_OPERATIONS} operations; this one has {0}")]
    TooManyOperations(usize),
    #[error("operation {index} of the JSON patch can't be read: {why}")]
    UnknownOperation { index: usize, why: String },
    #[error("operation {index} of the JSON patch failed: {why}")]
    FailedOperation { index: usize, why: String },
    #[error("operation {index} of the JSON patch nests objects and lists more than {DEEPEST} deep")]
    TooDeep { index: usize },
    #[error("the JSON patch copies and moves more than {MOST_MOVED} bytes up to operation {index}")]
    MovesTooMuch { index: usize },
    #[error("unknown patch type {directive} at {field:?}: \"$patch\" must be \"replace\" or \"delete\"")]
    UnknownDirective { field: String, directive: String },
    #[error("an item of {field:?} does not contain its merge key {merge_key:?}: {item}")]
    NoMergeKey { field: String, merge_key: String, item: String },
    #[error("{field:?} must be a list")]
    NotAList { field: String },
    #[error("items of {field:?} must all be objects, or all be plain values")]
    MixedList { field: String },
    #[error("\"$retainKeys\" at {field:?} must list every field that the patch sets there")]
    RetainKeys { field: String },
    #[error("the items of {field:?} are not in the order that \"$setElementOrder\" gives")]
    ElementOrder { field: String },
}

impl PatchError {
    /// The answer to a request with such a patch.
    #[must_use]
    pub fn to_failure(&self) -> Failure {
        match self {
            Self::UnknownOperation { .. } | Self::FailedOperation { .. } => Failure::unprocessable(self.to_string()),
            Self::NotAPatch(_)
            | Self::TooManyOperations(_)
            | Self::TooDeep { .. }
            | Self::MovesTooMuch { .. }
            | Self::UnknownDirective { .. }
            | Self::NoMergeKey { .. }
            | Self::NotAList { .. }
            | Self::MixedList { .. }
            | Self::RetainKeys { .. }
            | Self::ElementOrder { .. } => Failure::bad_request(self.to_string()),
        }
    }
}

/// A merge patch (RFC 7386): objects are merged, null removes, everything else replaces.
#[must_use]
pub fn merge(current: &Value, patch: &Value) -> Value {
    let mut patched = current.clone();
    json_patch::merge(&mut patched, patch);
    patched
}

/// A JSON patch (RFC 6902), with two liberties of the real server: `replace` of a missing key adds it, and `test` takes
/// a missing key for null.
///
/// # Errors
/// When the patch is no list of operations, or one of them fails; nothing is changed then.
pub fn json_patch(current: &Value, operations: &Value) -> Result<Value, PatchError> {
    let Value::Array(operations) = operations else {
        return Err(PatchError::NotAPatch("a JSON patch is a list of operations".to_owned()));
    };
    if operations.len() > MOST_OPERATIONS {
        return Err(PatchError::TooManyOperations(operations.len()));
    }
    let mut patched = current.clone();
    let mut moved = 0;
    for (index, operation) in operations.iter().enumerate() {
        let operation: PatchOperation = serde_json::from_value(operation.clone())
            .map_err(|error| PatchError::UnknownOperation { index, why: error.to_string() })?;
        let (path, put) = put(&patched, &operation);
        if path.matches('/').count() + put.depth > DEEPEST {
            return Err(PatchError::TooDeep { index });
        }
        moved += put.bytes;
        if moved > MOST_MOVED {
            return Err(PatchError::MovesTooMuch { index });
        }
        apply_operation(&mut patched, operation).map_err(|why| PatchError::FailedOperation { index, why })?;
    }
    Ok(patched)
}

/// Where an operation puts something, how deep that is, and how much of it comes from the document itself.
fn put<'o>(document: &Value, operation: &'o PatchOperation) -> (&'o str, Size) {
    let of_document = |from: &str| document.pointer(from).map_or_else(Size::default, Size::of);
    let of_patch = |value: &Value| Size { bytes: 0, ..Size::of(value) };
    match operation {
        PatchOperation::Add(add) => (add.path.as_str(), of_patch(&add.value)),
        PatchOperation::Replace(replace) => (replace.path.as_str(), of_patch(&replace.value)),
        PatchOperation::Move(from) => (from.path.as_str(), of_document(from.from.as_str())),
        PatchOperation::Copy(from) => (from.path.as_str(), of_document(from.from.as_str())),
        PatchOperation::Remove(_) | PatchOperation::Test(_) => ("", Size::default()),
    }
}

fn apply_operation(document: &mut Value, mut operation: PatchOperation) -> Result<(), String> {
    let is_missing_key =
        |path: &str| document.pointer(path).is_none() && parent(document, path).is_some_and(Value::is_object);
    if let PatchOperation::Test(test) = &operation
        && test.value.is_null()
        && is_missing_key(test.path.as_str())
    {
        return Ok(());
    }
    if let PatchOperation::Replace(replace) = &operation
        && is_missing_key(replace.path.as_str())
    {
        let ReplaceOperation { path, value } = replace.clone();
        operation = PatchOperation::Add(AddOperation { path, value });
    }
    json_patch::patch(document, &[operation]).map_err(|error| error.to_string())
}

fn parent<'a>(document: &'a Value, path: &str) -> Option<&'a Value> {
    document.pointer(path.rsplit_once('/')?.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn json_patches_apply_in_order() {
        let current = json!({"data": {"a": "1", "b": "2"}, "list": ["x"]});
        let table = [
            (
                json!([
                    {"op": "add", "path": "/data/c", "value": "3"},
                    {"op": "replace", "path": "/data/a", "value": "9"},
                    {"op": "remove", "path": "/data/b"},
                ]),
                json!({"data": {"a": "9", "c": "3"}, "list": ["x"]}),
            ),
            (
                json!([
                    {"op": "copy", "from": "/data/a", "path": "/data/c"},
                    {"op": "move", "from": "/data/b", "path": "/data/d"},
                    {"op": "add", "path": "/list/-", "value": "y"},
                ]),
                json!({"data": {"a": "1", "c": "1", "d": "2"}, "list": ["x", "y"]}),
            ),
            (
                json!([{"op": "replace", "path": "/data/none", "value": "x"}, {"op": "test", "path": "/data/gone", "value": null}]),
                json!({"data": {"a": "1", "b": "2", "none": "x"}, "list": ["x"]}),
            ),
        ];
        for (operations, expected) in table {
            assert_eq!(json_patch(&current, &operations), Ok(expected), "{operations}");
        }
    }

    #[test]
    fn json_patches_that_fail_say_which_operation() {
        let current = json!({"data": {"a": "1"}});
        let table = [
            (json!([{"op": "remove", "path": "/data/none"}]), 422),
            (json!([{"op": "frob", "path": "/data/a"}]), 422),
            (json!([{"op": "add", "path": "/none/a", "value": 1}]), 422),
            (json!([{"op": "replace", "path": "/none/a", "value": 1}]), 422),
            (json!([{"op": "test", "path": "/data/a", "value": "2"}]), 422),
            (json!({"op": "x"}), 400),
            (json!("nonsense"), 400),
        ];
        for (operations, code) in table {
            assert_eq!(json_patch(&current, &operations).unwrap_err().to_failure().code, code, "{operations}");
        }
    }

    #[test]
    fn json_patches_can_not_grow_a_document_without_bound() {
        let nested = |levels: usize| (0..levels).fold(json!(1), |inner, _| json!({"a": inner}));
        let current = json!({"data": {"a": "x".repeat(1000)}, "deep": nested(60)});
        let doubling: Vec<Value> = (0..40)
            .map(|number| json!({"op": "copy", "from": "/data", "path": format!("/data/copy-{number}")}))
            .collect();
        let table = [
            (json!([{"op": "add", "path": "/data/b", "value": nested(120)}]), "more than 100 deep"),
            (json!([{"op": "move", "from": "/deep", "path": format!("/deep{}", "/a".repeat(50))}]), "deep"),
            (json!([{"op": "copy", "from": "/deep", "path": format!("/deep{}", "/a".repeat(59))}]), "deep"),
            (Value::Array(doubling), "copies and moves more than"),
        ];
        for (operations, expected) in table {
            let error = json_patch(&current, &operations).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
            assert_eq!(error.to_failure().code, 400);
        }
        json_patch(&current, &json!([{"op": "copy", "from": "/deep", "path": "/data/b"}])).unwrap();
    }

    #[test]
    fn merge_patches_merge_objects_and_replace_lists() {
        let current = json!({"a": {"b": 1, "c": 2}, "l": [1, 2]});
        let patch = json!({"a": {"b": null, "d": {"e": null, "f": 1}}, "l": [3]});
        assert_eq!(merge(&current, &patch), json!({"a": {"c": 2, "d": {"f": 1}}, "l": [3]}));
    }
}
