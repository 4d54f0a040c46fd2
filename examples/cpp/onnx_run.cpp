// Runs an ONNX model that fewbits wrote, by the C API of ONNX Runtime.
//
//   onnx_run MODEL.onnx INPUT.f32 3,8 OUTPUT.f32
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

#include <onnxruntime_c_api.h>

static const OrtApi* api = nullptr;

static void check(OrtStatus* status) {
  if (status == nullptr) return;
  const std::string message = api->GetErrorMessage(status);
  api->ReleaseStatus(status);
  throw std::runtime_error(message);
}

static std::vector<int64_t> parse_shape(const std::string& text) {
  std::vector<int64_t> shape;
  std::stringstream stream(text);
  for (std::string size; std::getline(stream, size, ',');) shape.push_back(std::stoll(size));
  return shape;
}

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: %s MODEL.onnx INPUT.f32 SHAPE OUTPUT.f32\n", argv[0]);
    return 2;
  }
  try {
    api = OrtGetApiBase()->GetApi(ORT_API_VERSION);
    if (api == nullptr) throw std::runtime_error("the library is older than the headers");
    const std::vector<int64_t> shape = parse_shape(argv[3]);
    size_t count = 1;
    for (const int64_t size : shape) count *= static_cast<size_t>(size);
    std::vector<float> numbers(count);
    std::ifstream input(argv[2], std::ios::binary);
    const auto bytes = static_cast<std::streamsize>(count * sizeof(float));
    if (!input.read(reinterpret_cast<char*>(numbers.data()), bytes) || input.peek() != EOF)
      throw std::runtime_error(std::string(argv[2]) + " does not hold exactly " + std::to_string(count) + " numbers");

    OrtEnv* environment = nullptr;
    OrtSessionOptions* options = nullptr;
    OrtSession* session = nullptr;
    OrtAllocator* allocator = nullptr;
    OrtMemoryInfo* memory = nullptr;
    OrtValue* given = nullptr;
    OrtValue* found = nullptr;
    char* input_name = nullptr;
    char* output_name = nullptr;
    check(api->CreateEnv(ORT_LOGGING_LEVEL_WARNING, "fewbits", &environment));
    check(api->CreateSessionOptions(&options));
    check(api->CreateSession(environment, argv[1], options, &session));  // a wide name on Windows
    check(api->GetAllocatorWithDefaultOptions(&allocator));
    check(api->SessionGetInputName(session, 0, allocator, &input_name));
    check(api->SessionGetOutputName(session, 0, allocator, &output_name));
    check(api->CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
    check(api->CreateTensorWithDataAsOrtValue(memory, numbers.data(), count * sizeof(float), shape.data(),
                                              shape.size(), ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, &given));
    check(api->Run(session, nullptr, &input_name, &given, 1, &output_name, 1, &found));

    OrtTensorTypeAndShapeInfo* information = nullptr;
    size_t results = 0;
    float* values = nullptr;
    check(api->GetTensorTypeAndShape(found, &information));
    check(api->GetTensorShapeElementCount(information, &results));
    check(api->GetTensorMutableData(found, reinterpret_cast<void**>(&values)));
    std::ofstream output(argv[4], std::ios::binary);
    output.write(reinterpret_cast<const char*>(values), static_cast<std::streamsize>(results * sizeof(float)));
    if (!output.flush()) throw std::runtime_error(std::string("cannot write ") + argv[4]);
    std::printf("%zu numbers\n", results);

    api->ReleaseTensorTypeAndShapeInfo(information);
    api->ReleaseValue(found);
    api->ReleaseValue(given);
    api->ReleaseMemoryInfo(memory);
    check(api->AllocatorFree(allocator, input_name));
    check(api->AllocatorFree(allocator, output_name));
    api->ReleaseSession(session);
    api->ReleaseSessionOptions(options);
    api->ReleaseEnv(environment);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
