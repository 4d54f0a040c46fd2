"""The version, where both the package and the build find it."""

VERSION = "0.1.0"
