"""Rules of a loop: what people say after the policy, as a file, and as a signed record.

Read `rule_set` (rules, and their check against a loop), `rule_record` (what workers get) and
`rule_file` (what people write). Conditions are SQL of people in a file and terms in a record; only
`rule_file` imports DuckDB. It may import `loop`.

Proved elsewhere: `rule_record` by `tests/schemas/rules/test_rule_file.py`.
"""
