-- Stands in for the one that is being written elsewhere.
CREATE DATABASE IF NOT EXISTS {database} {on_cluster};
