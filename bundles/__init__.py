"""The small trained bundles that ship with the package, a folder each."""
