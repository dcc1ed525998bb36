"""Everything an administrator edits as one readable file: written by `export_config`, read by `import_config`.

`document` says what stands in it, `exporting` writes it, `importing` brings a database up to it.
"""
