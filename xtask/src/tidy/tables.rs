//! Tables in Markdown, as far as our own documents use them.

use anyhow::Context;

/// The rows of the first table whose header has all of `columns`, each row cut down to these columns.
pub(super) fn rows<'text, const COLUMNS: usize>(
    text: &'text str,
    columns: [&str; COLUMNS],
) -> anyhow::Result<Vec<[&'text str; COLUMNS]>> {
    let mut lines = text.lines();
    let places = lines.find_map(|line| places(&cells(line)?, columns));
    let places = places.with_context(|| format!("there is no table with the columns {columns:?}"))?;
    // The line below the header is the ruler.
    let body = lines.skip(1).map_while(cells);
    let rows = body.map(|cells| places.map(|place| cells.get(place).copied().unwrap_or_default()));
    Ok(rows.collect())
}

/// What stands between backticks.
pub(super) fn code(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

fn cells(line: &str) -> Option<Vec<&str>> {
    let inner = line.trim().strip_prefix('|')?.strip_suffix('|')?;
    Some(inner.split('|').map(str::trim).collect())
}

fn places<const COLUMNS: usize>(header: &[&str], columns: [&str; COLUMNS]) -> Option<[usize; COLUMNS]> {
    let found: Vec<_> = columns.iter().filter_map(|column| header.iter().position(|cell| cell == column)).collect();
    found.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "words\n| A | B |\n|---|---|\n| 1 | 2 |\n\n| X | Go to | Y |\n|--|--|--|\n| x | `a` → `b` | y |\nend\n| no | more | rows |";

    #[test]
    fn a_table_is_found_by_its_header_and_ends_with_its_last_row() {
        assert_eq!(rows(TEXT, ["Go to", "X"]).unwrap(), [["`a` → `b`", "x"]]);
        assert!(rows(TEXT, ["C"]).unwrap_err().to_string().contains("\"C\""));
        assert_eq!(code("`a` → `b` c"), ["a", "b"]);
    }
}
