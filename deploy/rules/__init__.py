"""The rules of a loop: every version in the lake, the newest on the model topic.

Read `rule_history` (the table), then `rule_changes` (what sets rules and takes them back).

Proved elsewhere: `rule_history` by `tests/deploy/rules/test_rule_changes.py`.
"""
