"""The data path: accept a call, let it be judged and recorded, pass it on and stream the answer back."""
