"""A detection service as a tutorial writes it: FastAPI, one model of ultralytics, one route. Prints its address.

python serve_ultralytics.py MODEL
"""

import socket
import sys

import cv2
import numpy as np
import uvicorn
from fastapi import FastAPI, Request
from ultralytics import YOLO

app = FastAPI()
model = YOLO(sys.argv[1], task="detect")


@app.post("/detect")
async def detect(request: Request) -> list:
    image = cv2.imdecode(np.frombuffer(await request.body(), np.uint8), cv2.IMREAD_COLOR)
    found = model.predict(image, verbose=False, device="cpu")[0]
    return found.boxes.data.tolist()


listener = socket.create_server(("127.0.0.1", 0))
print(f"http://127.0.0.1:{listener.getsockname()[1]}/detect", flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="warning")).run(sockets=[listener])
