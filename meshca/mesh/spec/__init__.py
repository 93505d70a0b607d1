"""The spec of each App Mesh object: shapes, unions, bounds, enums, defaults and cross-field rules."""
