"""A certificate authority and Envoy secrets service for service meshes in App Mesh's vocabulary."""

from __future__ import annotations

__version__ = "0.1.0"
