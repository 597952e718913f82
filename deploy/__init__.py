"""What runs where: the processes of a loop on one machine, the demo, and work on many cores.

Read `local/` (Kafka, S3, processes), then `demo/`, `reprocess/` and `sandbox/`. It may import every
package but `cli`, which calls it.
"""
