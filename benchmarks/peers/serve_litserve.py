"""The model of ultralytics behind LitServe, one worker for each core. Prints its address.

python serve_litserve.py MODEL WORKERS
"""

import base64
import socket
import sys

import cv2
import litserve
import numpy as np


class Detector(litserve.LitAPI):
    def setup(self, device):
        from ultralytics import YOLO

        self.model = YOLO(sys.argv[1], task="detect")

    def decode_request(self, request):
        return base64.b64decode(request["image"])

    def predict(self, content):
        image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        return self.model.predict(image, verbose=False, device="cpu")[0].boxes.data.tolist()

    def encode_response(self, output):
        return {"boxes": output}


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    print(f"http://127.0.0.1:{port}/predict", flush=True)
    server = litserve.LitServer(Detector(), accelerator="cpu", workers_per_device=int(sys.argv[2]))
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="warning")
