// A Vulkan layer that gives a device the identity of SwiftShader. Of the devices that compute on a CPU, Chromium opens
// SwiftShader only, which has no shader-f16.
#include <vulkan/vulkan.h>
#include <vulkan/vk_layer.h>

#include <string.h>

static PFN_vkGetInstanceProcAddr next;
static VkInstance instance;

static VKAPI_ATTR VkResult VKAPI_CALL create_instance(const VkInstanceCreateInfo *info,
                                                      const VkAllocationCallbacks *allocator, VkInstance *out) {
    VkLayerInstanceCreateInfo *link = (VkLayerInstanceCreateInfo *)info->pNext;
    while (link &&
           (link->sType != VK_STRUCTURE_TYPE_LOADER_INSTANCE_CREATE_INFO || link->function != VK_LAYER_LINK_INFO))
        link = (VkLayerInstanceCreateInfo *)link->pNext;
    if (!link) return VK_ERROR_INITIALIZATION_FAILED;
    next = link->u.pLayerInfo->pfnNextGetInstanceProcAddr;
    link->u.pLayerInfo = link->u.pLayerInfo->pNext;
    VkResult result = ((PFN_vkCreateInstance)next(NULL, "vkCreateInstance"))(info, allocator, out);
    if (result == VK_SUCCESS) instance = *out;
    return result;
}

static void rename_device(VkPhysicalDeviceProperties *properties) {
    properties->vendorID = 0x1AE0;
    properties->deviceID = 0xC0DE;
}

static VKAPI_ATTR void VKAPI_CALL properties(VkPhysicalDevice device, VkPhysicalDeviceProperties *out) {
    ((PFN_vkGetPhysicalDeviceProperties)next(instance, "vkGetPhysicalDeviceProperties"))(device, out);
    rename_device(out);
}

static VKAPI_ATTR void VKAPI_CALL properties2(VkPhysicalDevice device, VkPhysicalDeviceProperties2 *out) {
    PFN_vkVoidFunction function = next(instance, "vkGetPhysicalDeviceProperties2");
    if (!function) function = next(instance, "vkGetPhysicalDeviceProperties2KHR");
    ((PFN_vkGetPhysicalDeviceProperties2)function)(device, out);
    rename_device(&out->properties);
}

__attribute__((visibility("default"))) VKAPI_ATTR PFN_vkVoidFunction VKAPI_CALL
vkGetInstanceProcAddr(VkInstance given, const char *name) {
    if (!strcmp(name, "vkCreateInstance")) return (PFN_vkVoidFunction)create_instance;
    if (!strcmp(name, "vkGetInstanceProcAddr")) return (PFN_vkVoidFunction)vkGetInstanceProcAddr;
    if (!strcmp(name, "vkGetPhysicalDeviceProperties")) return (PFN_vkVoidFunction)properties;
    if (!strncmp(name, "vkGetPhysicalDeviceProperties2", 30)) return (PFN_vkVoidFunction)properties2;
    return next ? next(given, name) : NULL;
}
