"""The version of plait."""

VERSION = "0.1.0"
