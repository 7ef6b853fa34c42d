"""Arguments of `from_pretrained` that say where a file is, not what to do with it."""

HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "subfolder", "token")
