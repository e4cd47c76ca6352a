/* A library with the functions of NVIDIA's management library that Millrace asks, telling of two cards: one that
 * works and one that fell off the bus. Functions of later drivers are left out on purpose. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

enum { SUCCESS = 0, INVALID = 2, NOT_SUPPORTED = 3, GPU_IS_LOST = 15 };

typedef struct {
  char legacy[16];
  unsigned domain, bus, device, device_id, subsystem;
  char bus_id[32];
} pci_info;

typedef struct {
  unsigned version;
  unsigned long long total, reserved, free, used;
} memory_v2;

typedef struct {
  unsigned gpu, memory;
} utilization;

static int cards[2] = {0, 1};

static int lost(void *device) { return device == &cards[1]; }

int nvmlInit_v2(void) { return SUCCESS; }
int nvmlShutdown(void) { return SUCCESS; }

int nvmlSystemGetDriverVersion(char *text, unsigned length) {
  snprintf(text, length, "550.54.14");
  return SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
  *count = 2;
  return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
  if (index > 1) return INVALID;
  *device = &cards[index];
  return SUCCESS;
}

int nvmlDeviceGetPciInfo_v3(void *device, pci_info *info) {
  memset(info, 0, sizeof *info);
  snprintf(info->legacy, sizeof info->legacy, "0000:01:00.0");
  snprintf(info->bus_id, sizeof info->bus_id, lost(device) ? "00000000:C1:00.0" : "00000000:01:00.0");
  info->device_id = 0x268410de;
  return SUCCESS;
}

int nvmlDeviceGetName(void *device, char *text, unsigned length) {
  snprintf(text, length, "NVIDIA Test 4090");
  return SUCCESS;
}

int nvmlDeviceGetTemperature(void *device, unsigned sensor, unsigned *value) {
  *value = 71;
  return lost(device) ? GPU_IS_LOST : SUCCESS;
}

int nvmlDeviceGetTemperatureThreshold(void *device, unsigned kind, unsigned *value) {
  *value = kind == 1 ? 95 : 98;
  return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(void *device, utilization *rates) {
  rates->gpu = 37;
  rates->memory = 9;
  return SUCCESS;
}

int nvmlDeviceGetEncoderUtilization(void *device, unsigned *value, unsigned *period) {
  *value = 81;
  *period = 167000;
  return SUCCESS;
}

int nvmlDeviceGetDecoderUtilization(void *device, unsigned *value, unsigned *period) {
  *value = 12;
  *period = 167000;
  return SUCCESS;
}

int nvmlDeviceGetEncoderStats(void *device, unsigned *sessions, unsigned *fps, unsigned *latency) {
  *sessions = 4;
  *fps = 120;
  *latency = 4000;
  return SUCCESS;
}

int nvmlDeviceGetMemoryInfo_v2(void *device, memory_v2 *info) {
  info->total = 24ull << 30;
  info->used = 3ull << 30;
  info->free = 21ull << 30;
  info->reserved = 0;
  return SUCCESS;
}

int nvmlDeviceGetPowerUsage(void *device, unsigned *milliwatts) {
  *milliwatts = 312500;
  return SUCCESS;
}

int nvmlDeviceGetEnforcedPowerLimit(void *device, unsigned *milliwatts) {
  *milliwatts = 400000;
  return SUCCESS;
}

int nvmlDeviceGetPowerManagementDefaultLimit(void *device, unsigned *milliwatts) {
  *milliwatts = 450000;
  return SUCCESS;
}

/* The power cap (4), the general slow-down (8) and the hardware's for heat (0x40). */
int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *bits) {
  *bits = 0x4c;
  return SUCCESS;
}

int nvmlDeviceGetTotalEccErrors(void *device, unsigned kind, unsigned counter, unsigned long long *count) {
  *count = kind == 0 ? 7 : 0;
  return SUCCESS;
}

int nvmlDeviceGetClockInfo(void *device, unsigned kind, unsigned *megahertz) {
  *megahertz = kind == 2 ? 10501 : 2520;
  return SUCCESS;
}

int nvmlDeviceGetFanSpeed_v2(void *device, unsigned fan, unsigned *percent) { return NOT_SUPPORTED; }
