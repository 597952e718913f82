"""Contracts: the loop definition, the Avro events made from it, their wire form and their codec."""
