//! From a migration's text to statements for one server. Pure.
//!
//! Placeholders: `{database}`; `{on_cluster}`, empty on a single node; `{engine_replacing:VERSION}`, a
//! `ReplacingMergeTree` or its replicated form.

use penstock_service::config::ClickHouse;

/// A configuration or a file that no statement can be made of.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RenderError {
    /// A name that would have to be quoted.
    #[error(
        "{key} is {name:?}: use letters, digits and underscores, and begin with a letter or an underscore"
    )]
    Name {
        /// The configuration key.
        key: &'static str,
        /// What it holds.
        name: String,
    },
    /// A placeholder that does not exist.
    #[error("the migration holds the unknown placeholder {{{0}}}")]
    Placeholder(String),
}

/// The statements of a file, without comment lines. A statement ends with a semicolon at the end of a line.
pub(super) fn statements(file: &str) -> Vec<String> {
    let code: Vec<&str> = file.lines().filter(|line| !line.trim_start().starts_with("--")).collect();
    let mut code = code.join("\n");
    code.push('\n');
    code.split(";\n").map(str::trim).filter(|statement| !statement.is_empty()).map(str::to_owned).collect()
}

/// Puts the configuration into a statement.
pub(super) fn render(template: &str, config: &ClickHouse) -> Result<String, RenderError> {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let Some((placeholder, behind)) = after.split_once('}') else { break };
        out.push_str(before);
        out.push_str(&value(placeholder, config)?);
        rest = behind;
    }
    out.push_str(rest);
    Ok(out)
}

fn value(placeholder: &str, config: &ClickHouse) -> Result<String, RenderError> {
    let clustered = !config.cluster.is_empty();
    match placeholder.split_once(':') {
        None if placeholder == "database" => {
            Ok(identifier("clickhouse.database", &config.database)?.to_owned())
        }
        None if placeholder == "on_cluster" && !clustered => Ok(String::new()),
        None if placeholder == "on_cluster" => {
            Ok(format!("ON CLUSTER {}", identifier("clickhouse.cluster", &config.cluster)?))
        }
        // Path and name of a replica are the server's own: default_replica_path and default_replica_name.
        Some(("engine_replacing", version)) if clustered => {
            Ok(format!("ReplicatedReplacingMergeTree({version})"))
        }
        Some(("engine_replacing", version)) => Ok(format!("ReplacingMergeTree({version})")),
        _ => Err(RenderError::Placeholder(placeholder.to_owned())),
    }
}

/// `name`, if it needs no quotes in SQL.
pub(super) fn identifier<'a>(key: &'static str, name: &'a str) -> Result<&'a str, RenderError> {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    match name.bytes().next() {
        Some(first) if plain && !first.is_ascii_digit() => Ok(name),
        _ => Err(RenderError::Name { key, name: name.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(database: &str, cluster: &str) -> ClickHouse {
        ClickHouse { database: database.to_owned(), cluster: cluster.to_owned(), ..ClickHouse::default() }
    }

    #[test]
    fn a_single_node_gets_plain_engines() {
        let sql = render("CREATE {database}.t {on_cluster} ENGINE = {engine_replacing:v}", &config("a", ""))
            .unwrap();
        assert_eq!(sql, "CREATE a.t  ENGINE = ReplacingMergeTree(v)");
    }

    #[test]
    fn a_cluster_gets_replicated_engines() {
        let sql =
            render("CREATE {database}.t {on_cluster} ENGINE = {engine_replacing:v}", &config("a", "c1"))
                .unwrap();
        assert_eq!(sql, "CREATE a.t ON CLUSTER c1 ENGINE = ReplicatedReplacingMergeTree(v)");
    }

    #[test]
    fn names_that_would_need_quotes_are_refused() {
        for name in ["", "a-b", "a`b", "1a", "a.b", "a b"] {
            let error = render("{database}", &config(name, "")).unwrap_err();
            assert!(error.to_string().contains("clickhouse.database"), "{error}");
        }
        assert!(render("{on_cluster}", &config("a", "c'1")).is_err());
    }

    #[test]
    fn an_unknown_placeholder_is_an_error() {
        assert!(render("{databse}", &config("a", "")).is_err());
        assert!(render("{engine_summing:v}", &config("a", "")).is_err());
    }

    #[test]
    fn statements_end_at_semicolons_and_comments_are_left_out() {
        let file = "-- a comment; with\n-- lines;\nSELECT 1;\n\nSELECT ';'\nFROM t;\n";
        assert_eq!(statements(file), ["SELECT 1", "SELECT ';'\nFROM t"]);
    }
}
