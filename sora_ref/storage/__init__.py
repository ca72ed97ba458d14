"""Files and folders that are whole or absent, checked when they are read, held by one process at a time; downloads.

Reading:     `regular` opens only what is a file; `documents` JSON and TOML; `logs` JSON lines; `tensors` safetensors;
             `pointers` what lies where tensors are expected.
Writing:     `files` whole files; `folder` whole folders; `stream` a file as it comes; `json_text` JSON for a terminal;
             `half` float16 and bfloat16.
Believing:   `sealed` tensors and facts under a digest.
Alone:       `lock` one writer in a run directory; `flock` a lock on an open file.
Downloading: `artefact` what is pinned; `registry` pip fetches it; `cache` keeps it and looks whether it is damaged;
             `place` says where.
"""
