"""The gate: what evaluation refuses, asked before it begins, and the report that `fastmoco data check` prints."""
