// Runs a module that fewbits.package compiled, without Python.
//
//   aoti_run MODEL.pt2 INPUT.f32 3,8 OUTPUT.f32
//
// INPUT.f32 holds float32 numbers in C order, of the shape that follows; the first output is written in the same way.

#include <cstdint>
#include <cstdio>
#include <exception>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include <ATen/ops/empty.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

static std::vector<int64_t> parse_shape(const std::string& text) {
  std::vector<int64_t> shape;
  std::stringstream stream(text);
  for (std::string size; std::getline(stream, size, ',');) shape.push_back(std::stoll(size));
  return shape;
}

static at::Tensor read_floats(const std::string& path, const std::vector<int64_t>& shape) {
  at::Tensor tensor = at::empty(shape, at::kFloat);
  std::ifstream file(path, std::ios::binary);
  const auto bytes = static_cast<std::streamsize>(tensor.nbytes());
  if (!file.read(static_cast<char*>(tensor.data_ptr()), bytes) || file.peek() != EOF)
    throw std::runtime_error(path + " does not hold exactly " + std::to_string(tensor.numel()) + " float32 numbers");
  return tensor;
}

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: %s MODEL.pt2 INPUT.f32 SHAPE OUTPUT.f32\n", argv[0]);
    return 2;
  }
  try {
    torch::inductor::AOTIModelPackageLoader model(argv[1]);
    std::vector<at::Tensor> inputs = {read_floats(argv[2], parse_shape(argv[3]))};
    const std::vector<at::Tensor> outputs = model.run(inputs);
    const at::Tensor first = outputs.at(0).to(at::kCPU, at::kFloat).contiguous();
    std::ofstream file(argv[4], std::ios::binary);
    file.write(static_cast<const char*>(first.data_ptr()), static_cast<std::streamsize>(first.nbytes()));
    if (!file.flush()) throw std::runtime_error(std::string("cannot write ") + argv[4]);
    std::printf("%lld numbers\n", static_cast<long long>(first.numel()));
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
